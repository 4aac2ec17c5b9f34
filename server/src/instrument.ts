import { mayWrite, type Tracker } from "./tracker.js";

// biome-ignore lint/suspicious/noExplicitAny: the methods are passed on with the arguments they came with
type Method = (this: unknown, ...args: any[]) => any;

/**
 * Replaces the writing methods of an object's storage on this instance by ones that tell the tracker and then do
 * just what the original does: same arguments, same `this`, same result, same errors.
 */
export function instrument(storage: DurableObjectStorage, tracker: Tracker): void {
  entryWrites(storage, tracker);
  after(storage, "deleteAll", (result) => {
    tracker.cleared();
    if (result instanceof Promise) void result.then(() => tracker.cleared(), ignore);
  });
  alarmWrites(storage, tracker);
  wrap(
    storage,
    "transaction",
    (original) =>
      function (this: unknown, closure: (txn: DurableObjectTransaction) => unknown, ...rest: unknown[]) {
        if (typeof closure !== "function") return original.call(this, closure, ...rest);
        const before = tracker.mutations;
        const result: Promise<unknown> = original.call(
          this,
          (txn: DurableObjectTransaction) => {
            entryWrites(txn, tracker);
            alarmWrites(txn, tracker);
            return closure(txn);
          },
          ...rest,
        );
        // What it wrote becomes visible, or vanishes, when it ends.
        const end = () => {
          if (tracker.mutations !== before) {
            tracker.sqlChanged();
            tracker.kvChanged([]);
          }
        };
        tracker.transaction(result.then(end, end));
        return result;
      },
  );
  if (storage.kv !== undefined) entryWrites(storage.kv, tracker);
  if (storage.sql !== undefined) {
    wrap(
      storage.sql,
      "exec",
      (original) =>
        function (this: unknown, sql: unknown, ...rest: unknown[]) {
          if (typeof sql !== "string" || mayWrite(sql)) tracker.sqlChanged();
          return original.call(this, sql, ...rest);
        },
    );
  }
}

function entryWrites(target: object, tracker: Tracker): void {
  wrap(
    target,
    "put",
    (original) =>
      function (this: unknown, ...args: unknown[]) {
        tracker.kvChanged(keysOf(args[0]));
        return original.apply(this, args);
      },
  );
  wrap(
    target,
    "delete",
    (original) =>
      function (this: unknown, ...args: unknown[]) {
        tracker.kvChanged(Array.isArray(args[0]) ? args[0].map(String) : keysOf(args[0]));
        return original.apply(this, args);
      },
  );
}

function keysOf(keyOrEntries: unknown): string[] {
  return typeof keyOrEntries === "object" && keyOrEntries !== null ? Object.keys(keyOrEntries) : [String(keyOrEntries)];
}

function alarmWrites(target: object, tracker: Tracker): void {
  after(target, "setAlarm", () => tracker.changed());
  after(target, "deleteAlarm", () => tracker.changed());
}

function after(target: object, name: string, then: (result: unknown) => void): void {
  wrap(
    target,
    name,
    (original) =>
      function (this: unknown, ...args: unknown[]) {
        const result = original.apply(this, args);
        then(result);
        return result;
      },
  );
}

function wrap(target: object, name: string, make: (original: Method) => Method): void {
  const original = (target as Record<string, unknown>)[name];
  if (typeof original !== "function") return;
  Object.defineProperty(target, name, {
    value: make(original as Method),
    configurable: true,
    enumerable: false,
    writable: true,
  });
}

function ignore(): void {}
