import { digest } from "./digest.js";
import { changesAndSchema } from "./tables.js";
import type { Tracker } from "./tracker.js";

/** The version of an object now: equal versions mean equal contents. `sql` is undefined on a KV-backed class. */
export function currentVersion(tracker: Tracker, sql: SqlStorage | undefined): string {
  if (sql === undefined) return `${tracker.epoch}.${tracker.mutations}.0.-`;
  const { changes, schema } = changesAndSchema(sql);
  return `${tracker.epoch}.${tracker.mutations}.${changes}.${schema === "[]" ? NO_SCHEMA : digest([0, 0], schema)}`;
}

/** Whether an instance has written since it started; a client's version shows a schema that was changed. */
export function wroteSinceStart(version: string, clients: string | undefined): boolean {
  const [, mutations, total, schema] = version.split(".");
  if (schema === "-") return mutations !== "0";
  return total !== "0" || (clients !== undefined && schemaOf(clients) !== schema);
}

/** The last part of a version of an object that has no tables. */
export const NO_SCHEMA = digest([0, 0], "[]");

export function schemaOf(version: string): string {
  return version.slice(version.lastIndexOf(".") + 1);
}

/** How many rows were changed since a version; NaN where that cannot be said: it is of another instance, or schema. */
export function changesSince(version: string | undefined, now: string): number {
  const [epoch, , before, schema] = version?.split(".") ?? [];
  const [epochNow, , total, schemaNow] = now.split(".");
  return epoch === epochNow && schema === schemaNow ? Number(total) - Number(before) : Number.NaN;
}

/** The writes up to a version, where it is of this instance's epoch. */
export function mutationsOf(version: string | undefined, tracker: Tracker): number | undefined {
  const [epoch, mutations] = version?.split(".") ?? [];
  if (epoch !== tracker.epoch) return undefined;
  const count = Number(mutations);
  return Number.isSafeInteger(count) && count >= 0 && count <= tracker.mutations ? count : undefined;
}
