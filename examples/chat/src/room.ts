import { DurableObject } from "cloudflare:workers";

export interface Message {
  id: number;
  author: string;
  text: string;
  at: number;
}

const KEEP_MS = 30 * 24 * 60 * 60 * 1000;

/** A chat room: messages and members in SQL, who is present in entries, an alarm that forgets old messages. */
export class Room extends DurableObject<Env> {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    ctx.storage.sql.exec(`
      CREATE TABLE IF NOT EXISTS messages(id INTEGER PRIMARY KEY, author TEXT NOT NULL, text TEXT NOT NULL, at INTEGER NOT NULL);
      CREATE INDEX IF NOT EXISTS messages_by_author ON messages(author);
      CREATE TABLE IF NOT EXISTS members(name TEXT PRIMARY KEY COLLATE NOCASE, messages INTEGER NOT NULL) WITHOUT ROWID;
    `);
  }

  async post(author: string, text: string): Promise<Message> {
    const { storage } = this.ctx;
    const at = Date.now();
    const message = storage.transactionSync(() => {
      storage.sql.exec(
        "INSERT INTO members VALUES (?, 1) ON CONFLICT DO UPDATE SET messages = messages + 1",
        author,
      );
      return storage.sql
        .exec<{ id: number }>("INSERT INTO messages(author, text, at) VALUES (?, ?, ?) RETURNING id", author, text, at)
        .one();
    });
    storage.kv.put("last", { author, at: new Date(at) });
    if ((await storage.getAlarm()) === null) await storage.setAlarm(at + KEEP_MS);
    const sent = { id: message.id, author, text, at };
    for (const socket of this.ctx.getWebSockets()) socket.send(JSON.stringify(sent));
    return sent;
  }

  latest(limit = 20): Message[] {
    return this.ctx.storage.sql
      .exec<Message & Record<string, SqlStorageValue>>("SELECT * FROM messages ORDER BY id DESC LIMIT ?", limit)
      .toArray()
      .reverse();
  }

  override async fetch(request: Request): Promise<Response> {
    if (request.headers.get("Upgrade") !== "websocket") return new Response("Expected a WebSocket", { status: 426 });
    const author = new URL(request.url).searchParams.get("author") ?? "someone";
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server, [author]);
    this.ctx.storage.kv.put(`present:${author}`, true);
    return new Response(null, { status: 101, webSocket: client });
  }

  override async webSocketMessage(socket: WebSocket, data: string | ArrayBuffer): Promise<void> {
    await this.post(this.ctx.getTags(socket)[0] ?? "someone", String(data));
  }

  override webSocketClose(socket: WebSocket, code: number): void {
    this.ctx.storage.kv.delete(`present:${this.ctx.getTags(socket)[0]}`);
    socket.close(code === 1005 ? 1000 : code);
  }

  override async alarm(): Promise<void> {
    this.ctx.storage.sql.exec("DELETE FROM messages WHERE at < ?", Date.now() - KEEP_MS);
    const [row] = this.ctx.storage.sql.exec("SELECT 1 FROM messages LIMIT 1").toArray();
    if (row !== undefined) await this.ctx.storage.setAlarm(Date.now() + KEEP_MS);
  }
}
