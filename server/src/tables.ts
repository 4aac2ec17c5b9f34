import type { RangeReader, ReadRange } from "./chunking.js";
import type { Bound, Cell, SchemaEntry, TableDefinition } from "./frames.js";
import { MAX_TABLES } from "./limits.js";

/** Virtual tables whose rows are data; for any other module only the definition is kept. */
const DATA_MODULES = /\busing\s+(?:fts5|rtree|rtree_i32)\b/i;
/** SQLite takes 100 arguments to a function in this runtime, and a table may have that many columns. */
const MAX_ARGUMENTS = 90;
const ROWID = '"_durafetch_rowid"';
const ROWID_NAMES = ["rowid", "_rowid_", "oid"];
/** The first read of a table, before anything is known of its rows' size. */
const FIRST_ROWS = 16;
/** A database up to this size is read without looking at the size of rows first. */
const UNGUARDED_BYTES = 16 * 1024 * 1024;
/** So many rows of 2 MB may be read without having been expected. */
const UNGUARDED_CHANGES = 8;
const MAX_ROWS = 100_000;

/** One SQL table of an object, as it has to be read. */
export interface ReadableTable extends TableDefinition {
  /** The name under which SQL reaches the rowid; undefined where columns hide all three names. */
  rowidName: string | undefined;
}

export interface Schema {
  tables: ReadableTable[];
  entries: SchemaEntry[];
}

interface MasterRow extends Record<string, SqlStorageValue> {
  type: string;
  name: string;
  tbl_name: string;
  sql: string | null;
}

// `_cf_…` is the runtime's, `__miniflare_…` what wrangler dev adds to each object's file: neither is the app's.
const SCHEMA_SQL = `SELECT type, name, tbl_name, sql FROM sqlite_master
  WHERE tbl_name NOT LIKE '\\_cf\\_%' ESCAPE '\\' AND tbl_name NOT LIKE '\\_\\_miniflare\\_%' ESCAPE '\\' ORDER BY rowid`;

/** `total_changes()`, and the text that is digested to see whether the schema changed: in one query, as each pull asks. */
export function changesAndSchema(sql: SqlStorage): { changes: number; schema: string } {
  return sql.exec<{ changes: number; schema: string }>(CHANGES_AND_SCHEMA_SQL).one();
}

const CHANGES_AND_SCHEMA_SQL = `SELECT total_changes() AS changes,
  (SELECT json_group_array(json_array(type, name, tbl_name, sql)) FROM (${SCHEMA_SQL})) AS schema`;

/** Reads the definitions of all tables of the app. */
export function readSchema(sql: SqlStorage): Schema {
  const master = sql.exec<MasterRow>(SCHEMA_SQL).toArray();
  const kinds = new Map<string, { type: string; wr: number }>();
  for (const row of sql.exec<{ name: string; type: string; wr: number }>(
    "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'",
  )) {
    kinds.set(row.name, row);
  }
  const tables: ReadableTable[] = [];
  for (const row of master) {
    const kind = kinds.get(row.name);
    if (row.type !== "table" || kind === undefined || kind.type === "shadow") continue;
    if (row.name.startsWith("sqlite_") && row.name !== "sqlite_sequence") continue;
    if (kind.type === "virtual" && !DATA_MODULES.test(row.sql ?? "")) continue;
    tables.push(describeTable(sql, row.name, kind.type === "virtual" ? "virtual" : "table", kind.wr === 1));
  }
  if (tables.length > MAX_TABLES) throw new RangeError(`The object has more than ${MAX_TABLES} tables.`);
  const shadow = new Set([...kinds].filter(([, kind]) => kind.type === "shadow").map(([name]) => name));
  const entries = master
    .filter((row) => !shadow.has(row.tbl_name))
    .map((row) => ({ type: row.type, name: row.name, table: row.tbl_name, sql: row.sql }));
  return { tables, entries };
}

function describeTable(sql: SqlStorage, name: string, kind: "table" | "virtual", withoutRowid: boolean): ReadableTable {
  const columns = sql
    .exec<{ name: string; type: string; pk: number; hidden: number }>(
      "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid",
      name,
    )
    .toArray();
  const names = columns.map((column) => column.name);
  const base = { name, kind, columns: names };
  if (withoutRowid) return { ...base, rowid: false, rowidName: undefined, key: primaryKey(sql, name) };
  const primary = columns.filter((column) => column.pk > 0);
  // An INTEGER PRIMARY KEY is the rowid, except for the historical "INTEGER PRIMARY KEY DESC", which has an index.
  const alias = primary.length === 1 && primary[0]?.type.toUpperCase() === "INTEGER" && !hasPrimaryIndex(sql, name);
  if (alias && primary[0] !== undefined) {
    return { ...base, rowid: false, rowidName: undefined, key: [[primary[0].name, "BINARY"]] };
  }
  const taken = new Set(names.map((column) => column.toLowerCase()));
  return { ...base, rowid: true, rowidName: ROWID_NAMES.find((candidate) => !taken.has(candidate)), key: [] };
}

function hasPrimaryIndex(sql: SqlStorage, table: string): boolean {
  return sql.exec("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", table).toArray().length > 0;
}

function primaryKey(sql: SqlStorage, table: string): [string, string][] {
  return sql
    .exec<{ name: string; coll: string }>(
      `SELECT x.name, x.coll FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
       WHERE l.origin = 'pk' AND x.key = 1 ORDER BY x.seqno`,
      table,
    )
    .toArray()
    .map((row) => [row.name, row.coll.toUpperCase()]);
}

/** How cells are turned into JSON by SQLite; a chunk is read in the first mode that holds all its cells exactly. */
type Mode = "plain" | "tagged" | "bytes";

/** Reads ranges of one table as JSON text made by SQLite itself, which keeps 64-bit integers and int against real. */
export class TableReader implements RangeReader {
  #sql: SqlStorage;
  #table: ReadableTable;
  #rowBytes: number | undefined;
  #guarded: boolean;
  rowsRead = 0;

  /** `changes`: how many rows are others than when the chunks were made along which the table is read; or NaN. */
  constructor(sql: SqlStorage, table: ReadableTable, changes: number) {
    this.#sql = sql;
    this.#table = table;
    const few = changes >= 0 && changes <= UNGUARDED_CHANGES;
    this.#guarded = !few && sql.databaseSize > UNGUARDED_BYTES;
  }

  read(after: Bound, upto: Bound, bytes: number | undefined): ReadRange {
    let limit = MAX_ROWS;
    if (bytes !== undefined) {
      limit = this.#rowBytes === undefined ? FIRST_ROWS : Math.ceil(bytes / this.#rowBytes);
      limit = Math.min(MAX_ROWS, Math.max(1, limit));
      if (this.#guarded) limit = this.#guard(after, upto, limit, bytes);
    }
    for (;;) {
      try {
        return this.#readRows(after, upto, limit);
      } catch (error) {
        if (limit === 1 || !/too big/i.test(String(error))) throw error;
        limit = Math.max(1, limit >> 2);
      }
    }
  }

  /** Lowers a number of rows so that they hold about `bytes`; reads row headers only. */
  #guard(after: Bound, upto: Bound, limit: number, bytes: number): number {
    const size = this.#table.columns.map((column) => sizeSql(quote(column))).join("+") || "0";
    const { source, parameters } = this.#range(after, upto, limit);
    const actual = Number(this.#sql.exec(`SELECT sum(${size}) AS size FROM ${source}`, ...parameters).one().size ?? 0);
    return actual > 4 * bytes ? Math.max(1, Math.floor((limit * bytes) / actual)) : limit;
  }

  #readRows(after: Bound, upto: Bound, limit: number): ReadRange {
    let row = this.#query(after, upto, limit, "plain");
    // What JSON text does not show: infinities, the sign of zero, and bytes that are not UTF-8.
    if (/e\+999|[[,]-?0\.0[\],]/.test(row.rows as string)) row = this.#query(after, upto, limit, "tagged");
    if ((row.rows as string).includes("\ufffd")) row = this.#query(after, upto, limit, "bytes");
    const rows = row.rows as string;
    const count = Number(row.count);
    this.rowsRead += count;
    if (count > 0) this.#rowBytes = Math.max(1, rows.length / count);
    if (count < limit) return { rows, count, last: null, more: false };
    const last = this.#keyAt(after, upto, count - 1);
    return { rows, count, last, more: this.#keyAt(last, upto, 0) !== null };
  }

  /** The key of the row at an offset within a range; null where there is none. */
  #keyAt(after: Bound, upto: Bound, offset: number): Bound {
    const cells = this.#keys.map(([name]) => keyCellSql(name)).join(",");
    const { source, parameters } = this.#range(after, upto, 1, offset);
    const [row] = this.#sql.exec(`SELECT json_array(${cells}) AS key FROM ${source}`, ...parameters).toArray();
    return row === undefined ? null : (JSON.parse(row.key as string) as Cell[]);
  }

  #query(after: Bound, upto: Bound, limit: number, mode: Mode): Record<string, SqlStorageValue> {
    const cells = this.#table.columns.map((column) => cellSql(quote(column), mode));
    if (this.#table.rowid) cells.unshift(ROWID);
    const row = cells.length <= MAX_ARGUMENTS ? `json_array(${cells.join(",")})` : concatenated(cells);
    const { source, parameters } = this.#range(after, upto, limit);
    return this.#sql
      .exec(`SELECT json_group_array(${row}) AS rows, count(*) AS count FROM ${source}`, ...parameters)
      .one();
  }

  /** The key's SQL expressions and their collations. */
  get #keys(): [name: string, collation: string][] {
    return this.#table.rowid ? [[ROWID, "BINARY"]] : this.#table.key.map(([column, coll]) => [quote(column), coll]);
  }

  /** A subquery for the rows between two bounds, in key order; the rowid, where it is the key, is called `ROWID`. */
  #range(after: Bound, upto: Bound, limit: number, offset = 0): { source: string; parameters: SqlStorageValue[] } {
    const { name, rowid, rowidName } = this.#table;
    const parameters: SqlStorageValue[] = [];
    let table = quote(name);
    let keys = this.#keys.map(([key, collation]) => `${key} COLLATE ${quote(collation)}`);
    let columns = "*";
    if (rowid && rowidName !== undefined) {
      keys = [rowidName];
      columns = `${rowidName} AS ${ROWID}, *`;
    } else if (rowid) {
      // Columns hide every name of the rowid: rows are numbered in their stored order.
      table = `(SELECT row_number() OVER () AS ${ROWID}, * FROM ${table})`;
      keys = [ROWID];
    }
    const where: string[] = [];
    for (const [bound, operator] of [
      [after, ">"],
      [upto, "<="],
    ] as const) {
      if (bound === null) continue;
      const marks = bound.map((cell) => bindCell(cell, parameters));
      where.push(keys.length === 1 ? `${keys[0]} ${operator} ${marks[0]}` : `(${keys}) ${operator} (${marks})`);
    }
    const clause = where.length > 0 ? `WHERE ${where.join(" AND ")}` : "";
    // Numbers as parameters: the runtime keeps a statement ready by its text.
    parameters.push(limit, offset);
    return {
      source: `(SELECT ${columns} FROM ${table} ${clause} ORDER BY ${keys.join(", ")} LIMIT ? OFFSET ?)`,
      parameters,
    };
  }
}

/** One JSON array out of several, where there are more cells than a function may have arguments. */
function concatenated(cells: string[]): string {
  const parts: string[] = [];
  for (let start = 0; start < cells.length; start += MAX_ARGUMENTS) {
    const part = `json_array(${cells.slice(start, start + MAX_ARGUMENTS).join(",")})`;
    parts.push(`substr(${part}, 2, length(${part}) - 2)`);
  }
  return `json('[' || ${parts.join(" || ',' || ")} || ']')`;
}

function cellSql(column: string, mode: Mode): string {
  // SQLite's JSON functions take a blob that happens to be JSONB for JSON, so every blob is tagged.
  // Blobs, and they alone, come after the empty one: no function has to be called to tell.
  if (mode === "plain") return `CASE WHEN ${column} >= x'' THEN json_array('blob', hex(${column})) ELSE ${column} END`;
  const text =
    mode === "bytes"
      ? `WHEN typeof(${column}) = 'text' AND ${column} GLOB '*[^' || char(1) || '-' || char(127) || ']*' ` +
        `THEN json_array('text', hex(${column})) `
      : "";
  return (
    `CASE WHEN typeof(${column}) = 'blob' THEN json_array('blob', hex(${column})) ${text}` +
    `WHEN typeof(${column}) = 'real' AND ${column} > 1.7976931348623157e308 THEN json_array('real', 'inf') ` +
    `WHEN typeof(${column}) = 'real' AND ${column} < -1.7976931348623157e308 THEN json_array('real', '-inf') ` +
    `WHEN typeof(${column}) = 'real' AND ${column} = 0 AND atan2(${column}, -1) < 0 THEN json_array('real', '-0') ` +
    `ELSE ${column} END`
  );
}

/** About the bytes of a cell. Text and blobs come after numbers; the size of a number is not asked for, as it would be rendered. */
function sizeSql(column: string): string {
  return `CASE WHEN ${column} > '' COLLATE BINARY THEN octet_length(${column}) ELSE 8 END`;
}

/** A key's cell, always tagged, so that a bound survives JavaScript, which has no 64-bit integers. */
function keyCellSql(column: string): string {
  return (
    `json_array(typeof(${column}), CASE typeof(${column}) WHEN 'blob' THEN hex(${column}) ` +
    `WHEN 'text' THEN hex(${column}) WHEN 'real' THEN printf('%!.17g', ${column}) ELSE CAST(${column} AS TEXT) END)`
  );
}

/** A parameter for a bound's cell, with the expression around it that makes it the value it was. */
function bindCell(cell: Cell, parameters: SqlStorageValue[]): string {
  const [tag, text] = Array.isArray(cell) ? (cell as [string, string]) : ["?", ""];
  const expression = BOUND_CELLS[tag];
  if (expression === undefined || typeof text !== "string") throw new RangeError("A chunk's bound is not one of ours.");
  parameters.push(text);
  return expression;
}

const BOUND_CELLS: Record<string, string> = {
  integer: "CAST(? AS INTEGER)",
  real: "CAST(? AS REAL)",
  text: "CAST(unhex(?) AS TEXT)",
  blob: "unhex(?)",
};

function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
