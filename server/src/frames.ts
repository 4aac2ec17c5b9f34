import type { Filter } from "./filters.js";

/** A cell of a SQL row or of a key: what JSON holds, or a tagged cell (PROTOCOL.md, "SQL cells"). */
export type Cell = null | number | string | readonly [tag: string, text: string];

/** The upper bound of a chunk: the cells of its last row's key; null is +infinity. */
export type Bound = readonly Cell[] | null;

/** One chunk that the client holds: its upper bound and the digest of its rows. */
export type Chunk = readonly [upto: Bound, digest: string];

/** What the client holds of one object: chunks in key order, each list ending with an upper bound of null. */
export interface Chunks {
  kv?: Chunk[];
  tables?: Record<string, Chunk[]>;
}

export interface PullObject {
  class: string;
  id: string;
  version?: string | undefined;
  chunks?: Chunks | undefined;
}

/** What the Worker hands to the object; `seed` is the request's. */
export interface ObjectPull {
  class: string;
  seed: string;
  filter?: Filter | undefined;
  version?: string | undefined;
  chunks?: Chunks | undefined;
}

export interface TableDefinition {
  name: string;
  kind: "table" | "virtual";
  /** Names of the cells of a row, in order, the rowid apart. */
  columns: string[];
  /** Each row begins with its rowid, and the rowid is the key. */
  rowid: boolean;
  /** The key's columns and their collations, where `rowid` is false. */
  key: [column: string, collation: string][];
}

export interface SchemaEntry {
  type: string;
  name: string;
  table: string;
  sql: string | null;
}

export type ErrorCode =
  | "bad_request"
  | "class_not_found"
  | "class_not_wrapped"
  | "id_not_valid"
  | "insecure"
  | "internal"
  | "method_not_allowed"
  | "no_directory"
  | "not_found"
  | "object_failed"
  | "object_timeout"
  | "too_large"
  | "upgrade_required"
  | "unauthorized";

export type Frame =
  | {
      frame: "object";
      class: string;
      id: string;
      name?: string;
      storage: "sqlite" | "kv";
      version: string;
      unchanged?: true;
    }
  | { frame: "tables"; tables: TableDefinition[]; schema: SchemaEntry[] }
  | { frame: "alarm"; at: number | null }
  | { frame: "error"; class: string; id: string; code: ErrorCode; message: string; retry: boolean }
  | { frame: "done"; objects: number; failed: number };

export function line(frame: Frame): string {
  // Escapes of lone surrogates, in a name or an error's message, are no JSON that every client reads.
  return `${JSON.stringify(frame, (_, value) => (typeof value === "string" ? value.toWellFormed() : value))}\n`;
}

/** The line that ends an object: `body` is under the checksum as all before it is, and `tail` has that. */
export function endLine(version: string, rowsRead: number): { body: string; tail: (checksum: number) => string } {
  const body = `{"frame":"end","version":${JSON.stringify(version)},"rows_read":${rowsRead}`;
  return { body, tail: (checksum) => `,"crc32":${checksum}}\n` };
}

/** A range assertion. `rows` is JSON text: it is made by SQLite, or row by row, and never parsed here. */
export function rangeLine(table: string | null, after: Bound, chunks: readonly Chunk[], rows: string): string {
  const name = table === null ? "" : `"table":${JSON.stringify(table)},`;
  return `{"frame":"range",${name}"after":${JSON.stringify(after)},"chunks":${JSON.stringify(chunks)},"rows":${rows}}\n`;
}

/** Chunks that follow each other are sent as one range up to this length. */
const JOINED_BYTES = 64 * 1024;

/** Joins the chunks of one table that are to be sent. */
export class RangeLines {
  #table: string | null;
  #after: Bound = null;
  #chunks: Chunk[] = [];
  #rows: string[] = [];
  #size = 0;

  constructor(table: string | null) {
    this.#table = table;
  }

  /** Takes a chunk that begins where the last one ended; returns what is to be sent now, perhaps nothing. */
  add(after: Bound, chunk: Chunk, rows: string): string {
    const before = this.#size + rows.length > JOINED_BYTES ? this.flush() : "";
    if (this.#chunks.length === 0) this.#after = after;
    this.#chunks.push(chunk);
    if (rows !== "[]") this.#rows.push(rows);
    this.#size += rows.length;
    return before;
  }

  /** What was taken and not returned yet. */
  flush(): string {
    if (this.#chunks.length === 0) return "";
    const [first = "[]", ...more] = this.#rows;
    const rows = more.length === 0 ? first : `[${this.#rows.map((part) => part.slice(1, -1)).join(",")}]`;
    const text = rangeLine(this.#table, this.#after, this.#chunks, rows);
    this.#chunks = [];
    this.#rows = [];
    this.#size = 0;
    return text;
  }
}
