// The limits beside which the server functions are measured: a Worker that does the least that gets the data out.
import { DurableObject } from "cloudflare:workers";

export class Least extends DurableObject {
  fill(count: number, bytes: number): void {
    for (let i = 0; i < count; i++) this.ctx.storage.kv.put(`k${String(i).padStart(6, "0")}`, "x".repeat(bytes));
  }

  ping(): void {}

  async entries(): Promise<string> {
    return JSON.stringify([...(await this.ctx.storage.list())]);
  }
}

const CONCURRENT = 24;

export default {
  async fetch(request: Request, env: unknown, ctx: any): Promise<Response> {
    const url = new URL(request.url);
    const number = (name: string) => Number(url.searchParams.get(name));
    const all = Array.from({ length: number("count") }, (_, n) => ctx.exports.Least.getByName(`o${number("first") + n}`));
    switch (url.pathname) {
      case "/fill":
        for (const stub of all) await stub.fill(number("entries"), number("bytes"));
        return new Response("filled");
      case "/ping":
      case "/entries": {
        let body = "";
        const waiting: Promise<string>[] = [];
        for (let n = 0; n < all.length; n++) {
          while (waiting.length < Math.min(all.length, n + CONCURRENT)) {
            const stub = all[waiting.length];
            waiting.push(url.pathname === "/ping" ? stub.ping() : stub.entries());
          }
          body += (await waiting[n]) ?? "";
        }
        return new Response(body);
      }
      case "/bytes": {
        const chunk = new Uint8Array(65536).fill(120);
        let left = number("bytes");
        const body = new ReadableStream({
          type: "bytes",
          pull(controller: any) {
            if (left <= 0) {
              controller.close();
              controller.byobRequest?.respond(0);
              return;
            }
            controller.enqueue(chunk.slice(0, Math.min(left, chunk.length)));
            left -= chunk.length;
          },
        } as any);
        return new Response(body);
      }
    }
    return new Response("a bare answer");
  },
};
