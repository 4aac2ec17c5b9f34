import type { RangeReader, ReadRange } from "./chunking.js";
import type { Bound } from "./frames.js";
import { encodeValue } from "./values.js";

const FIRST_ENTRIES = 16;
const MAX_ENTRIES = 10_000;
/** In a large database entries are listed a few at a time: one of them may have 2 MB. */
const GUARDED_ENTRIES = 32;
const UNGUARDED_BYTES = 16 * 1024 * 1024;

/** The encoded form of entries: `[key, value]`, or `[key, null, devalue text]`, as JSON text. */
function encodeEntry(key: string, value: unknown): string {
  const encoded = encodeValue(value);
  return "json" in encoded
    ? `[${JSON.stringify(key)},${encoded.json}]`
    : `[${JSON.stringify(key)},null,${JSON.stringify(encoded.devalue)}]`;
}

/** What `storage.list()` and `storage.kv.list()` take for the entries with `after < key <= upto`. */
export function listOptions(after: Bound, upto: Bound, limit: number): DurableObjectListOptions {
  const options: DurableObjectListOptions = { limit };
  if (after !== null) options.startAfter = String(after[0]);
  // `end` is exclusive, and the least key above K is K followed by a NUL.
  if (upto !== null) options.end = `${upto[0]}\0`;
  return options;
}

/** Entries gathered from one listing after the other, each of one entry more than wanted, which tells of more. */
export class EntryPage {
  last: Bound;
  more = false;
  count = 0;
  /** How many entries were looked at, those that nobody wants included. */
  scanned = 0;
  /** The length of `rows`. */
  size = 2;
  #parts: string[] = [];
  #wanted: (key: string) => boolean;

  constructor(after: Bound, wanted: (key: string) => boolean) {
    this.last = after;
    this.#wanted = wanted;
  }

  /** Adds a listing that was made with a limit of `limit + 1`. */
  add(entries: [string, unknown][], limit: number): void {
    this.more = entries.length > limit;
    if (this.more) entries.pop();
    for (const [key, value] of entries) {
      this.last = [key];
      if (!this.#wanted(key)) continue;
      const text = encodeEntry(key, value);
      this.#parts.push(text);
      this.size += text.length + 1;
      this.count += 1;
    }
    this.scanned += entries.length;
  }

  range(): ReadRange {
    return { rows: `[${this.#parts.join(",")}]`, count: this.count, last: this.last, more: this.more };
  }
}

/** All entries of a listing. Says where the one stands that the runtime itself fails to read, since its error does not. */
function readAll(listing: Iterable<[string, unknown]>, after: Bound): [string, unknown][] {
  const entries: [string, unknown][] = [];
  try {
    for (const entry of listing) entries.push(entry);
  } catch (error) {
    const before = entries.at(-1)?.[0] ?? after?.[0];
    const place = before === undefined ? "The first entry" : `The entry after ${JSON.stringify(before)}`;
    throw new Error(`${place} holds a value that storage.get() cannot read, either (${error})`);
  }
  return entries;
}

/** Reads ranges of the entries of a SQLite-backed object, in one turn. */
export class EntryReader implements RangeReader {
  #storage: DurableObjectStorage;
  #wanted: (key: string) => boolean;
  #entryBytes: number | undefined;
  #step: number;
  rowsRead = 0;

  constructor(storage: DurableObjectStorage, wanted: (key: string) => boolean) {
    this.#storage = storage;
    this.#wanted = wanted;
    this.#step = storage.sql.databaseSize > UNGUARDED_BYTES ? GUARDED_ENTRIES : MAX_ENTRIES;
  }

  read(after: Bound, upto: Bound, bytes: number | undefined): ReadRange {
    const page = new EntryPage(after, this.#wanted);
    const enough = bytes ?? Number.POSITIVE_INFINITY;
    for (;;) {
      const missing = enough - page.size;
      const fitting = this.#entryBytes === undefined ? FIRST_ENTRIES : Math.ceil(missing / this.#entryBytes);
      const limit = Math.max(1, Math.min(this.#step - 1, fitting));
      // Read to its end: a cursor left open would keep the app's transaction from committing.
      page.add(readAll(this.#storage.kv.list(listOptions(page.last, upto, limit + 1)), page.last), limit);
      if (page.scanned > 0) this.#entryBytes = Math.max(1, page.size / page.scanned);
      if (!page.more || page.size >= enough) {
        this.rowsRead += page.scanned;
        return page.range();
      }
    }
  }
}
