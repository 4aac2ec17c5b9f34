import type { ShardPage } from "./directory.js";
import { MAX_WATCH_PAGE, WATCHER_TIMEOUT_MS } from "./limits.js";

/** What is kept with a watcher's socket while the directory sleeps. */
interface Watcher {
  /** It has everything up to here, once it acknowledges what was sent. */
  incarnation: string | null;
  seq: number;
  shard: number;
  shards: number;
  /** When the page that it has not acknowledged was sent; null where it acknowledged all. */
  sentAt: number | null;
}

/** A page for watchers: at most one is on its way to each, so that nobody who reads slowly piles them up. */
export interface WatchPage {
  shard: number;
  shards: number;
  cursor: string;
  reset: boolean;
  objects: ShardPage["objects"];
}

type Changes = (incarnation: string | null, seq: number, limit: number) => ShardPage;

/** The sockets of those who watch one shard of the directory. Between events it may sleep, and all this with it. */
export class Watchers {
  #ctx: DurableObjectState;
  #changes: Changes;

  constructor(ctx: DurableObjectState, changes: Changes) {
    this.#ctx = ctx;
    this.#changes = changes;
    // Answered by the runtime, without waking the directory.
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
  }

  /** Takes in a watcher, and sends it at once what it missed, even where that is nothing. */
  add(incarnation: string | null, seq: number, shard: number, shards: number): Response {
    const { 0: client, 1: server } = new WebSocketPair();
    this.#ctx.acceptWebSocket(server);
    this.#send(server, { incarnation, seq, shard, shards, sentAt: null }, true);
    return new Response(null, { status: 101, webSocket: client });
  }

  /** Something was announced: tells everybody who waits for it. */
  tell(): void {
    for (const socket of this.#ctx.getWebSockets()) {
      const watcher = socket.deserializeAttachment() as Watcher;
      if (watcher.sentAt === null) this.#send(socket, watcher, false);
      else if (Date.now() - watcher.sentAt > WATCHER_TIMEOUT_MS) drop(socket, 1008, "did not acknowledge in time");
    }
  }

  /** A watcher acknowledges a page by its cursor. */
  acknowledged(socket: WebSocket, message: string | ArrayBuffer): void {
    const watcher = socket.deserializeAttachment() as Watcher;
    if (message !== `${watcher.incarnation}:${watcher.seq}`) {
      drop(socket, 1008, "not the cursor of the last page");
      return;
    }
    this.#send(socket, { ...watcher, sentAt: null }, false);
  }

  #send(socket: WebSocket, watcher: Watcher, even: boolean): void {
    const page = this.#changes(watcher.incarnation, watcher.seq, MAX_WATCH_PAGE);
    const reset = watcher.incarnation !== null && watcher.incarnation !== page.incarnation;
    if (page.objects.length === 0 && !even && !reset) {
      socket.serializeAttachment(watcher);
      return;
    }
    const { shard, shards } = watcher;
    const sent: WatchPage = { shard, shards, cursor: `${page.incarnation}:${page.seq}`, reset, objects: page.objects };
    socket.serializeAttachment({ ...watcher, incarnation: page.incarnation, seq: page.seq, sentAt: Date.now() });
    try {
      socket.send(JSON.stringify(sent));
    } catch {
      // It is gone; its close event comes, or has come.
    }
  }
}

/** Closes a socket; one that is closed already is left alone. */
export function drop(socket: WebSocket, code: number, reason: string): void {
  try {
    socket.close(code, reason);
  } catch {
    // closed by the other side
  }
}
