import type { RangeReader, ReadRange } from "./chunking.js";
import type { Bound } from "./frames.js";
import { compareKeys } from "./keys.js";
import { encodeValue, survivesJson } from "./values.js";

const FIRST_ENTRIES = 16;
const MAX_ENTRIES = 10_000;
/** In a large database entries are listed a few at a time: one of them may have 2 MB. */
const GUARDED_ENTRIES = 32;
const UNGUARDED_BYTES = 16 * 1024 * 1024;
/** About as much is listed at once, since each listing is a query of its own; chunks are cut out of it. */
const LISTED_BYTES = 256 * 1024;

/** The encoded form of entries, between brackets: `[key, value]`, or `[key, null, devalue text]`, as JSON text. */
function encodeEntries(entries: [string, unknown][]): string {
  if (entries.every(([, value]) => survivesJson(value))) return JSON.stringify(entries).slice(1, -1);
  return entries
    .map(([key, value]) => {
      const encoded = encodeValue(value);
      return "json" in encoded
        ? `[${JSON.stringify(key)},${encoded.json}]`
        : `[${JSON.stringify(key)},null,${JSON.stringify(encoded.devalue)}]`;
    })
    .join(",");
}

/** What `storage.list()` and `storage.kv.list()` take for the entries with `after < key <= upto`. */
export function listOptions(after: Bound, upto: Bound, limit: number): DurableObjectListOptions {
  const options: DurableObjectListOptions = { limit };
  if (after !== null) options.startAfter = String(after[0]);
  // `end` is exclusive, and the least key above K is K followed by a NUL.
  if (upto !== null) options.end = `${upto[0]}\0`;
  return options;
}

/** Entries gathered for one range. */
export class EntryPage {
  last: Bound;
  more = false;
  count = 0;
  /** How many entries were added, those that nobody wants included. */
  scanned = 0;
  /** The length of `rows`. */
  size = 2;
  #parts: string[] = [];
  #wanted: (key: string) => boolean;

  constructor(after: Bound, wanted: (key: string) => boolean) {
    this.last = after;
    this.#wanted = wanted;
  }

  add(entries: [string, unknown][]): void {
    const end = entries.at(-1);
    if (end === undefined) return;
    this.last = [end[0]];
    this.scanned += entries.length;
    const chosen = entries.filter(([key]) => this.#wanted(key));
    if (chosen.length === 0) return;
    const text = encodeEntries(chosen);
    this.#parts.push(text);
    this.size += text.length + 1;
    this.count += chosen.length;
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

/** Reads ranges of the entries of a SQLite-backed object. What it listed and did not give yet serves the next range. */
export class EntryReader implements RangeReader {
  #storage: DurableObjectStorage;
  #wanted: (key: string) => boolean;
  #entryBytes: number | undefined;
  #most: number | undefined;
  /** Entries that were listed, of which those from `#taken` on are the next ones after `#at`. */
  #listed: [string, unknown][] = [];
  #taken = 0;
  #at: Bound = null;
  /** The bound up to which there are no other entries than the listed ones; undefined where there may be. */
  #complete: Bound | undefined;
  rowsRead = 0;

  constructor(storage: DurableObjectStorage, wanted: (key: string) => boolean) {
    this.#storage = storage;
    this.#wanted = wanted;
  }

  read(after: Bound, upto: Bound, bytes: number | undefined): ReadRange {
    const page = new EntryPage(after, this.#wanted);
    const enough = bytes ?? Number.POSITIVE_INFINITY;
    // Ranges that are read one after the other are listed together, beyond their bounds.
    const goesOn = after !== null && this.#at !== null && after[0] === this.#at[0];
    if (!goesOn) {
      this.#listed = [];
      this.#taken = 0;
      this.#at = after;
      this.#complete = undefined;
    }
    const end = goesOn ? null : upto;
    while ((page.scanned === 0 || page.size < enough) && this.#available(upto, end, enough - page.size)) {
      const fitting = this.#entryBytes === undefined ? FIRST_ENTRIES : (enough - page.size) / this.#entryBytes;
      page.add(this.#take(upto, Math.max(1, Math.ceil(fitting))));
      this.#entryBytes = Math.max(1, page.size / page.scanned);
    }
    page.more = this.#available(upto, end, 1);
    return page.range();
  }

  /** Whether there is an entry up to a bound that was not taken yet; lists more where that cannot be said. */
  #available(upto: Bound, end: Bound, missing: number): boolean {
    if (this.#taken === this.#listed.length) {
      if (this.#complete !== undefined && reaches(this.#complete, upto)) return false;
      this.#list(end, missing);
    }
    const next = this.#listed[this.#taken];
    return next !== undefined && (upto === null || compareKeys(next[0], String(upto[0])) <= 0);
  }

  #take(upto: Bound, most: number): [string, unknown][] {
    const end = Math.min(this.#listed.length, this.#taken + most);
    let stop = upto === null ? end : this.#taken;
    while (stop < end && compareKeys((this.#listed[stop] as [string, unknown])[0], String(upto?.[0])) <= 0) stop += 1;
    const entries = this.#listed.slice(this.#taken, stop);
    this.#taken = stop;
    this.#at = [(entries.at(-1) as [string, unknown])[0]];
    return entries;
  }

  #list(end: Bound, missing: number): void {
    const limit = 1 + (this.#entryBytes === undefined ? FIRST_ENTRIES : this.#fitting(missing));
    // Read to its end: a cursor left open would keep the app's transaction from committing.
    this.#listed = readAll(this.#storage.kv.list(listOptions(this.#at, end, limit)), this.#at);
    this.#taken = 0;
    this.#complete = this.#listed.length < limit ? end : undefined;
    this.rowsRead += this.#listed.length;
  }

  #fitting(missing: number): number {
    this.#most ??= this.#storage.sql.databaseSize > UNGUARDED_BYTES ? GUARDED_ENTRIES : MAX_ENTRIES;
    return Math.min(this.#most, Math.ceil(Math.max(missing, LISTED_BYTES) / (this.#entryBytes ?? 1)));
  }
}

/** Whether one upper bound is not below another. */
function reaches(bound: Bound, other: Bound): boolean {
  return bound === null || (other !== null && compareKeys(String(bound[0]), String(other[0])) >= 0);
}
