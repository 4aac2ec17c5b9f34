import { crc32 } from "./checksum.js";
import { type HeldRange, heldRanges, type RangeReader, targetBytes, walk } from "./chunking.js";
import { digest, parseSeed, type Seed } from "./digest.js";
import { EntryPage, EntryReader, listOptions } from "./entries.js";
import { matcher } from "./filters.js";
import { type Bound, type Chunk, type Chunks, endLine, line, type ObjectPull, RangeLines } from "./frames.js";
import { compareKeys } from "./keys.js";
import { MAX_CHUNK_BYTES, SMALL_REPLY_BYTES } from "./limits.js";
import { readSchema, type Schema, TableReader } from "./tables.js";
import type { Tracker } from "./tracker.js";
import { changesSince, currentVersion, mutationsOf, NO_SCHEMA, schemaOf, wroteSinceStart } from "./versions.js";

/** Passes over a large object that moves under the walk, before the last one is done in a single turn. */
const MAX_PASSES = 8;
const KV_STEP = 128;

/** Answers one object's pull: all its frames as text where they are few, else a stream of them. */
export async function pullObject(
  ctx: DurableObjectState,
  tracker: Tracker,
  request: ObjectPull,
): Promise<string | ReadableStream<Uint8Array>> {
  const frames = new ObjectReader(ctx, tracker, request).frames();
  const parts: string[] = [];
  let size = 0;
  while (size < SMALL_REPLY_BYTES) {
    const { value, done } = await frames.next();
    if (done) return parts.join("");
    parts.push(value);
    size += value.length;
  }
  return streamed(parts.join(""), frames);
}

/** A stream that reads on only as fast as it is read from. */
function streamed(head: string, frames: AsyncGenerator<string>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let pending: string | undefined = head;
  const source: UnderlyingByteSource = {
    type: "bytes",
    async pull(controller) {
      if (pending === undefined) {
        const { value, done } = await frames.next();
        if (done) {
          controller.close();
          controller.byobRequest?.respond(0);
          return;
        }
        pending = value;
      }
      const bytes = encoder.encode(pending);
      pending = undefined;
      controller.enqueue(bytes);
    },
    async cancel() {
      await frames.return(undefined);
    },
  };
  return new ReadableStream(source as never);
}

/** A stretch of a walk: frames to send, perhaps none, and how many bytes were read for them. */
type Step = readonly [text: string, read: number];

/** The walk gives the app a turn each time that this much was read. */
const TURN_BYTES = 256 * 1024;

class ObjectReader {
  #ctx: DurableObjectState;
  #tracker: Tracker;
  #request: ObjectPull;
  #seed: Seed;
  #sql: SqlStorage | undefined;
  #wantedKey: (key: string) => boolean;
  #rowsRead = 0;
  #checksum = 0;

  constructor(ctx: DurableObjectState, tracker: Tracker, request: ObjectPull) {
    this.#ctx = ctx;
    this.#tracker = tracker;
    this.#request = request;
    const seed = parseSeed(request.seed);
    if (seed === undefined) throw new RangeError("seed has to be 16 hexadecimal digits");
    this.#seed = seed;
    this.#sql = sqlOf(ctx.storage);
    this.#wantedKey = matcher(request.filter?.keys);
  }

  /** The frames of this object, from `object` to `end`. Several range lines may come as one string. */
  async *frames(): AsyncGenerator<string> {
    const { id, storage } = this.#ctx;
    const header = {
      frame: "object" as const,
      class: this.#request.class,
      id: id.toString(),
      ...(id.name === undefined ? {} : { name: id.name }),
      storage: this.#sql === undefined ? ("kv" as const) : ("sqlite" as const),
    };
    let base: { version: string | undefined; chunks: Chunks } = {
      version: this.#request.version,
      chunks: this.#request.chunks ?? {},
    };
    let announced = false;
    for (let pass = 1; ; pass++) {
      await this.#tracker.settled();
      const before = this.#tracker.mutations;
      const alarm = await storage.getAlarm();
      if (this.#tracker.inTransaction || this.#tracker.mutations !== before) {
        if (pass < MAX_PASSES * 4) continue;
      }
      // From here to the first yield nothing else runs: what is read is one state.
      const version = currentVersion(this.#tracker, this.#sql);
      this.#tracker.read(wroteSinceStart(version, this.#request.version));
      if (!announced && version === this.#request.version) {
        yield this.#ended(line({ ...header, version, unchanged: true }), version);
        return;
      }
      let head = announced ? "" : line({ ...header, version });
      announced = true;
      const next: Chunks = {};
      const last = pass >= MAX_PASSES;
      let failed: unknown;
      // Whether anything else had a turn since the version was taken.
      let turned = this.#sql === undefined;
      try {
        const steps =
          this.#sql === undefined ? this.#kvBackedSteps(base, next) : this.#sqliteSteps(this.#sql, base, version, next);
        // What is small is read in one turn, and so is a last pass; else the app gets its turns in between.
        let read = 0;
        let turn = 0;
        for (let step = steps.next(); ; step = steps.next()) {
          const { value, done } = step instanceof Promise ? await step : step;
          if (done) break;
          head += value[0];
          read += value[1];
          turn += value[1];
          if (last || read < SMALL_REPLY_BYTES || turn < TURN_BYTES) continue;
          turn = 0;
          if (head !== "") yield this.#said(head);
          head = "";
          turned = true;
          await scheduler.wait(0);
          await this.#tracker.settled();
        }
      } catch (error) {
        // A table that was altered while its rows were walked; the next pass sees what it has become.
        failed = error;
      }
      head += line({ frame: "alarm", at: alarm });
      const moved = turned && currentVersion(this.#tracker, this.#sql) !== version;
      const settled = !this.#tracker.inTransaction && !moved;
      if (failed !== undefined && (settled || last)) throw failed;
      // A last pass is one turn on SQLite. On the KV backend it is not, and half a transaction must never be an end.
      if (last && !settled) throw new Error("The object changes faster than it can be read.");
      if (settled) {
        yield this.#ended(head, version);
        return;
      }
      if (head !== "") yield this.#said(head);
      base = { version: failed === undefined ? version : undefined, chunks: failed === undefined ? next : {} };
    }
  }

  #said(text: string): string {
    this.#checksum = crc32(text, this.#checksum);
    return text;
  }

  #ended(text: string, version: string): string {
    const { body, tail } = endLine(version, this.#rowsRead);
    return this.#said(text + body) + tail(this.#checksum);
  }

  *#sqliteSteps(
    sql: SqlStorage,
    base: { version: string | undefined; chunks: Chunks },
    version: string,
    next: Chunks,
  ): Generator<Step> {
    const since = mutationsOf(base.version, this.#tracker);
    const fingerprint = schemaOf(version);
    const schema = fingerprint === NO_SCHEMA ? { tables: [], entries: [] } : readSchema(sql);
    const wantedTable = matcher(this.#request.filter?.tables, true);
    schema.tables = schema.tables.filter(({ name }) => wantedTable(name));
    schema.entries = schema.entries.filter(({ table }) => wantedTable(table));
    if (base.version === undefined || schemaOf(base.version) !== fingerprint) yield [tablesLine(schema), 0];

    const entries = new EntryReader(this.#ctx.storage, this.#wantedKey);
    next.kv = [];
    yield* this.#ranges(null, entries, base.chunks.kv, "kv", next.kv, this.#entriesUnchanged(since));
    this.#rowsRead += entries.rowsRead;

    next.tables = {};
    const changes = changesSince(base.version, version);
    const sqlUnchanged = since !== undefined && this.#tracker.lastSqlWrite <= since;
    for (const table of schema.tables) {
      const reader = new TableReader(sql, table, changes);
      const chunks: Chunk[] = [];
      next.tables[table.name] = chunks;
      const held = base.chunks.tables?.[table.name];
      // The definition is digested with the rows, so that a renamed column makes every chunk a new one.
      const salt = JSON.stringify([table.columns, table.rowid, table.key]);
      yield* this.#ranges(table.name, reader, held, salt, chunks, () => sqlUnchanged);
      this.#rowsRead += reader.rowsRead;
    }
  }

  *#ranges(
    table: string | null,
    reader: RangeReader,
    held: readonly Chunk[] | undefined,
    salt: string,
    next: Chunk[],
    unchanged: (range: HeldRange) => boolean,
  ): Generator<Step> {
    const digestOf = (rows: string) => digest(this.#seed, salt, rows);
    const lines = new RangeLines(table);
    for (const { after, upto, digest, rows, send, read } of walk(reader, heldRanges(held), digestOf, unchanged)) {
      const chunk: Chunk = [upto, digest];
      next.push(chunk);
      yield [send ? lines.add(after, chunk, rows) : lines.flush(), read];
    }
    yield [lines.flush(), 0];
  }

  /** Whether no entry in a range was written since, as far as this instance saw all writes. */
  #entriesUnchanged(since: number | undefined): (range: HeldRange) => boolean {
    if (since === undefined) return () => false;
    if (this.#tracker.lastKvWrite <= since) return () => true;
    const keys = this.#tracker.keysSince(since)?.sort(compareKeys);
    if (keys === undefined || keys.length === 0) return () => false;
    return ({ after, upto }) =>
      !keys.some(
        (key) =>
          (after === null || compareKeys(key, String(after[0])) > 0) &&
          (upto === null || compareKeys(key, String(upto[0])) <= 0),
      );
  }

  /** The same walk for a KV-backed class, whose only way to read is asynchronous. */
  async *#kvBackedSteps(base: { version: string | undefined; chunks: Chunks }, next: Chunks): AsyncGenerator<Step> {
    if (base.version === undefined) yield [line({ frame: "tables", tables: [], schema: [] }), 0];
    const unchanged = this.#entriesUnchanged(mutationsOf(base.version, this.#tracker));
    next.kv = [];
    const lines = new RangeLines(null);
    let total = 0;
    for (const range of heldRanges(base.chunks.kv)) {
      if (range.digest !== undefined && unchanged(range)) {
        next.kv.push([range.upto, range.digest]);
        yield [lines.flush(), 0];
        continue;
      }
      let after: Bound = range.after;
      for (let first = true; ; first = false) {
        const read = await this.#listEntries(
          after,
          range.upto,
          first && range.digest ? 2 * MAX_CHUNK_BYTES : targetBytes(total),
        );
        total += read.rows.length;
        const upto: Bound = read.more ? read.last : range.upto;
        const chunk: Chunk = [upto, digest(this.#seed, "kv", read.rows)];
        next.kv.push(chunk);
        const send = read.more || chunk[1] !== range.digest || !first;
        yield [send ? lines.add(after, chunk, read.rows) : lines.flush(), read.rows.length];
        if (!read.more) break;
        after = read.last;
      }
    }
    yield [lines.flush(), 0];
  }

  async #listEntries(after: Bound, upto: Bound, bytes: number) {
    const page = new EntryPage(after, this.#wantedKey);
    for (let limit = 16; ; limit = KV_STEP) {
      const entries = [...(await this.#ctx.storage.list(listOptions(page.last, upto, limit + 1)))];
      page.more = entries.length > limit;
      page.add(entries.slice(0, limit));
      if (!page.more || page.size >= bytes) {
        this.#rowsRead += page.scanned;
        return page.range();
      }
    }
  }
}

function tablesLine(schema: Schema): string {
  const tables = schema.tables.map(({ name, kind, columns, rowid, key }) => ({ name, kind, columns, rowid, key }));
  return line({ frame: "tables", tables, schema: schema.entries });
}

const sqlInterfaces = new WeakMap<DurableObjectStorage, SqlStorage | null>();

/** The SQL interface of a SQLite-backed object; on a KV-backed class it is there, but any use of it throws. */
function sqlOf(storage: DurableObjectStorage): SqlStorage | undefined {
  let sql = sqlInterfaces.get(storage);
  if (sql === undefined) {
    try {
      storage.sql.exec("SELECT 1").toArray();
      sql = storage.sql;
    } catch {
      sql = null;
    }
    sqlInterfaces.set(storage, sql);
  }
  return sql ?? undefined;
}
