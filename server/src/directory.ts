import { DurableObject } from "cloudflare:workers";
import { drop, Watchers } from "./watchers.js";

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
  #watchers: Watchers;
  /** Permissions to open a socket, each given by RPC, which no request from outside can forge, and good for one. */
  #tickets = new Set<string>();

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
    this.#watchers = new Watchers(ctx, (incarnation, seq, limit) => this.changes(incarnation, seq, limit));
  }

  /** Permits one `fetch` that opens a watcher's socket. */
  ticket(): string {
    const ticket = crypto.randomUUID();
    this.#tickets.add(ticket);
    if (this.#tickets.size > 100) this.#tickets = new Set([ticket]);
    return ticket;
  }

  override async fetch(request: Request): Promise<Response> {
    const query = new URL(request.url).searchParams;
    if (!this.#tickets.delete(query.get("ticket") ?? "")) return new Response("Forbidden", { status: 403 });
    const [incarnation, seq, shard, shards] = JSON.parse(query.get("watch") ?? "[]");
    return this.#watchers.add(incarnation, seq, shard, shards);
  }

  override webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): void {
    this.#watchers.acknowledged(socket, message);
  }

  override webSocketClose(socket: WebSocket): void {
    drop(socket, 1000, "");
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
    this.#watchers.tell();
  }

  /** Adds objects that no start has announced yet; leaves those that are known as they are. Returns how many are new. */
  discover(className: string, objects: [id: string, name: string | null][]): number {
    const { sql } = this.ctx.storage;
    sql.exec("INSERT OR IGNORE INTO classes VALUES (?)", className);
    let added = 0;
    for (const [id, name] of objects) {
      added += sql
        .exec(
          "INSERT OR IGNORE INTO objects(seq, id, class, name) VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM objects), ?, ?, ?) RETURNING 1",
          id,
          className,
          name,
        )
        .toArray().length;
    }
    if (added > 0) this.#watchers.tell();
    return added;
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
