import { MAX_DISCOVER_OBJECTS, MAX_REQUEST_BYTES } from "./limits.js";
import { DIRECTORY_CLASS, directoryShard, shards } from "./namespaces.js";
import { failure } from "./responses.js";
import { known, noDirectory, type RouteContext, readBody } from "./routes.js";

/** `POST v1/discover`: tells the directory of objects that have not started since Durafetch was added. */
export async function discover(request: Request, context: RouteContext): Promise<Response> {
  const found = known(context);
  const directory = found.get(DIRECTORY_CLASS);
  if (directory === undefined) return noDirectory();
  const text = await readBody(request);
  if (text === undefined) return failure(413, "too_large", `The request has more than ${MAX_REQUEST_BYTES} bytes.`);
  const parsed = parse(text);
  if (typeof parsed === "string") return failure(400, "bad_request", parsed);
  const namespace = parsed.class === DIRECTORY_CLASS ? undefined : found.get(parsed.class);
  if (namespace === undefined) {
    return failure(400, "class_not_found", `The Worker exports no Durable Object class ${parsed.class}.`);
  }
  const refused: string[] = [];
  const byShard = new Map<number, [id: string, name: string | null][]>();
  const add = (id: string, name: string | null) => {
    const shard = Number.parseInt(id.slice(0, 2), 16) % shards(context.env);
    byShard.set(shard, [...(byShard.get(shard) ?? []), [id, name]]);
  };
  for (const name of parsed.names) add(namespace.idFromName(name).toString(), name.toWellFormed());
  for (const id of parsed.ids) {
    try {
      add(namespace.idFromString(id).toString(), null);
    } catch {
      refused.push(id);
    }
  }
  const added = await Promise.all(
    [...byShard].map(([shard, objects]) =>
      (directoryShard(directory, shard) as unknown as Discovery).discover(parsed.class, objects),
    ),
  );
  return Response.json({ added: added.reduce((sum, count) => sum + count, 0), refused });
}

interface Discovery {
  discover(className: string, objects: [id: string, name: string | null][]): Promise<number>;
}

function parse(text: string): { class: string; names: string[]; ids: string[] } | string {
  let body: { class?: unknown; names?: unknown; ids?: unknown } | null;
  try {
    body = JSON.parse(text);
  } catch {
    return "The body is not JSON.";
  }
  if (typeof body !== "object" || body === null) return "The body has to be a JSON object.";
  const { class: className, names = [], ids = [] } = body;
  if (typeof className !== "string") return "class has to be a string.";
  if (!strings(names) || !strings(ids)) return "names and ids have to be arrays of strings.";
  if (names.length + ids.length > MAX_DISCOVER_OBJECTS) return `More than ${MAX_DISCOVER_OBJECTS} names and ids.`;
  return { class: className, names, ids };
}

function strings(list: unknown): list is string[] {
  return Array.isArray(list) && list.every((item) => typeof item === "string");
}
