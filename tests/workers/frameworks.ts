// Classes of frameworks that subclass DurableObject, as an app would write them.
import { Agent } from "agents";
import { Server } from "partyserver";

export class PartyBase extends Server {
  override async onStart() {
    await this.ctx.storage.put("started", true);
  }
  override async onRequest(request: Request) {
    const n = ((await this.ctx.storage.get<number>("n")) ?? 0) + 1;
    await this.ctx.storage.put("n", n);
    return Response.json({ n, name: this.name, method: request.method });
  }
}

export class CountAgentBase extends Agent<any, { count: number }> {
  override initialState = { count: 0 };
  override async onRequest(request: Request) {
    if (request.method === "POST") this.setState({ count: this.state.count + 1 });
    this.sql`CREATE TABLE IF NOT EXISTS visits(at INTEGER PRIMARY KEY, method TEXT)`;
    this.sql`INSERT INTO visits(method) VALUES (${request.method})`;
    return Response.json({ state: this.state, visits: this.sql`SELECT * FROM visits`, name: this.name });
  }
}

export const handler = {
  async fetch(request: Request, env: any): Promise<Response> {
    const [, kind, name] = new URL(request.url).pathname.split("/");
    const namespace = kind === "party" ? env.PARTY : kind === "agent" ? env.AGENT : undefined;
    if (namespace === undefined) return new Response("no such kind", { status: 404 });
    const stub = namespace.get(namespace.idFromName(name));
    const headers = new Headers(request.headers);
    headers.set("x-partykit-room", name as string);
    return stub.fetch(new Request(request, { headers }));
  },
};
