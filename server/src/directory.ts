import { DurableObject } from "cloudflare:workers";

/** One object, as the directory lists it. */
export interface ListedObject {
  class: string;
  id: string;
  name: string | null;
}

/** One page of a shard's listing. */
export interface ShardPage {
  /** The shard's storage has this random name; another one means that its sequence began anew. */
  incarnation: string;
  /** Pass it as `after` to go on. */
  seq: number;
  more: boolean;
  objects: ListedObject[];
}

/**
 * The Durable Object that remembers which objects there are, and the order in which they last started or became
 * dirty. One row an object; its storage is the only thing that Durafetch ever writes on the server.
 */
export class DurafetchDirectory extends DurableObject {
  #incarnation: string;

  constructor(ctx: DurableObjectState, env: unknown) {
    super(ctx, env as never);
    const sql = ctx.storage.sql;
    sql.exec("CREATE TABLE IF NOT EXISTS incarnation(value TEXT NOT NULL)");
    sql.exec(
      "CREATE TABLE IF NOT EXISTS objects(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, class TEXT NOT NULL, name TEXT)",
    );
    sql.exec("CREATE TABLE IF NOT EXISTS classes(name TEXT PRIMARY KEY) WITHOUT ROWID");
    const [row] = sql.exec<{ value: string }>("SELECT value FROM incarnation").toArray();
    this.#incarnation = row?.value ?? crypto.randomUUID();
    if (row === undefined) sql.exec("INSERT INTO incarnation VALUES (?)", this.#incarnation);
  }

  /** Notes that an object started or became dirty. A known name is never replaced by none. */
  announce(className: string, id: string, name: string | null): void {
    this.ctx.storage.sql.exec("INSERT OR IGNORE INTO classes VALUES (?)", className);
    this.ctx.storage.sql.exec(
      `INSERT OR REPLACE INTO objects(seq, id, class, name) VALUES (
         (SELECT coalesce(max(seq), 0) + 1 FROM objects), ?1, ?2,
         coalesce(?3, (SELECT name FROM objects WHERE id = ?1)))`,
      id,
      className,
      name,
    );
  }

  /** The classes of which an object was ever announced. */
  classes(): string[] {
    return this.ctx.storage.sql
      .exec<{ name: string }>("SELECT name FROM classes")
      .toArray()
      .map((row) => row.name);
  }

  /** The objects that were announced after `seq`, in that order; from the start where the incarnation is another. */
  changes(incarnation: string | null, seq: number, limit: number): ShardPage {
    const after = incarnation === this.#incarnation ? seq : 0;
    const rows = this.ctx.storage.sql
      .exec<{ seq: number; class: string; id: string; name: string | null }>(
        "SELECT seq, class, id, name FROM objects WHERE seq > ? ORDER BY seq LIMIT ?",
        after,
        limit + 1,
      )
      .toArray();
    const page = rows.slice(0, limit);
    return {
      incarnation: this.#incarnation,
      seq: page.at(-1)?.seq ?? after,
      more: rows.length > limit,
      objects: page.map((row) => ({ class: row.class, id: row.id, name: row.name })),
    };
  }
}
