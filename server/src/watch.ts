import { DIRECTORY_CLASS, directoryShard, shards } from "./namespaces.js";
import { failure } from "./responses.js";
import { known, noDirectory, parseCursor, type RouteContext } from "./routes.js";

/** `GET v1/watch?after=CURSOR&shard=N`: the socket is the shard's own, so that the Worker is done at once. */
export async function watch(request: Request, url: URL, context: RouteContext): Promise<Response> {
  const directory = known(context).get(DIRECTORY_CLASS);
  if (directory === undefined) return noDirectory();
  if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") {
    return failure(426, "upgrade_required", "watch is a WebSocket.");
  }
  const count = shards(context.env);
  const shard = Number(url.searchParams.get("shard") ?? 0);
  const after = parseCursor(url.searchParams.get("after") ?? "", count);
  if (after === undefined || !Number.isInteger(shard) || shard < 0 || shard >= count) {
    return failure(400, "bad_request", `after has to be a cursor, shard a whole number from 0 to ${count - 1}.`);
  }
  const { incarnation, seq } = after[shard] as { incarnation: string | null; seq: number };
  const stub = directoryShard(directory, shard) as unknown as { ticket(): Promise<string> } & Fetcher;
  const query = new URLSearchParams({
    ticket: await stub.ticket(),
    watch: JSON.stringify([incarnation, seq, shard, count]),
  });
  return stub.fetch(`https://directory/?${query}`, { headers: { Upgrade: "websocket" } });
}
