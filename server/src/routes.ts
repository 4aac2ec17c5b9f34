import { parseSeed } from "./digest.js";
import type { ShardPage } from "./directory.js";
import { type Filter, validFilter } from "./filters.js";
import { type ErrorCode, line, type PullObject } from "./frames.js";
import {
  MAX_BATCH_OBJECTS,
  MAX_CHANGES_PAGE,
  MAX_REQUEST_BYTES,
  OBJECT_TIMEOUT_MS,
  PROTOCOL_VERSION,
} from "./limits.js";
import {
  DIRECTORY_CLASS,
  directoryShard,
  type Namespace,
  type NamespaceOptions,
  namespaces,
  shards,
} from "./namespaces.js";
import { newsCome } from "./news.js";
import { PULL_METHOD } from "./object.js";
import { contentEncoding, failure } from "./responses.js";
import { wrappedClasses } from "./wrapped.js";

export interface DurafetchWorkerOptions extends NamespaceOptions {
  /** The name under which a mirror keeps this Worker's objects. Default: what the client calls it. */
  name?: string;
}

export interface RouteContext {
  env: unknown;
  ctx: ExecutionContext;
  options: DurafetchWorkerOptions;
}

/** Objects asked at the same time; their answers wait in order, each at most SMALL_REPLY_BYTES. */
const CONCURRENT_OBJECTS = 24;
/** At first fewer are asked, so that the client has something to do soon: each answer raises their number by one. */
const FIRST_OBJECTS = 4;
/** Text is gathered to this length before it is written to the response. */
const WRITE_BYTES = 64 * 1024;

/** The refusal of what needs a directory, where there is none. */
export function noDirectory(): Response {
  return failure(
    503,
    "no_directory",
    "DurafetchDirectory is not a Durable Object class of this Worker: export it from the entry file and add it to " +
      "new_sqlite_classes in the migrations of the wrangler configuration.",
  );
}

/** The Worker's namespaces by class name. */
export function known(context: RouteContext): Map<string, Namespace> {
  return namespaces(context.ctx as never, context.env, context.options);
}

/** How the Worker introduces itself: `id` stays the same over deployments, `name` is what people call it. */
function identity(directory: Namespace | undefined, options: DurafetchWorkerOptions) {
  return { id: directory?.idFromName("durafetch").toString() ?? null, name: options.name ?? null };
}

/** `GET v1/info` */
export async function info(context: RouteContext): Promise<Response> {
  const found = known(context);
  const directory = found.get(DIRECTORY_CLASS);
  const exported = [...found.keys()].filter((name) => name !== DIRECTORY_CLASS);
  const count = shards(context.env);
  const seen = new Set<string>();
  if (directory !== undefined) {
    const lists = await Promise.all(Array.from({ length: count }, (_, shard) => shardOf(directory, shard).classes()));
    for (const name of lists.flat()) seen.add(name);
  }
  return Response.json({
    protocol: PROTOCOL_VERSION,
    worker: identity(directory, context.options),
    directory: directory === undefined ? null : { shards: count },
    classes: [...wrappedClasses(exported, seen)].map(([name, wrapped]) => ({ name, wrapped })),
    limits: { MAX_BATCH_OBJECTS, MAX_CHANGES_PAGE, MAX_REQUEST_BYTES },
  });
}

interface Shard {
  classes(): Promise<string[]>;
  changes(incarnation: string | null, seq: number, limit: number): Promise<ShardPage>;
}

function shardOf(directory: Namespace, shard: number): Shard {
  return directoryShard(directory, shard) as unknown as Shard;
}

/** `GET v1/changes?after=CURSOR&limit=N` */
export async function changes(request: Request, url: URL, context: RouteContext): Promise<Response> {
  const directory = known(context).get(DIRECTORY_CLASS);
  if (directory === undefined) return noDirectory();
  const limitText = url.searchParams.get("limit") ?? String(MAX_CHANGES_PAGE);
  const limit = Math.min(MAX_CHANGES_PAGE, Number(limitText));
  const count = shards(context.env);
  const after = parseCursor(url.searchParams.get("after") ?? "", count);
  if (!Number.isInteger(limit) || limit < 1 || after === undefined) {
    return failure(
      400,
      "bad_request",
      "after has to be a cursor that this call returned, limit a whole number from 1.",
    );
  }
  await newsCome();
  const perShard = Math.max(1, Math.ceil(limit / count));
  const pages = await Promise.all(
    after.map(({ incarnation, seq }, shard) => shardOf(directory, shard).changes(incarnation, seq, perShard)),
  );
  const page = {
    protocol: PROTOCOL_VERSION,
    worker: identity(directory, context.options),
    cursor: pages.map((page) => `${page.incarnation}:${page.seq}`).join(","),
    more: pages.some((page) => page.more),
    reset: pages.some((page, shard) => {
      const before = after[shard]?.incarnation ?? null;
      return before !== null && before !== page.incarnation;
    }),
    objects: pages.flatMap((page) => page.objects),
  };
  return Response.json(page, { headers: contentEncoding(request) });
}

/** Where each shard was read to; undefined where the text is no cursor. */
export function parseCursor(text: string, count: number): { incarnation: string | null; seq: number }[] | undefined {
  const parts = text === "" ? [] : text.split(",");
  const cursor = [];
  for (const part of parts) {
    const match = /^([0-9a-f-]{36}):(\d{1,15})$/.exec(part);
    if (match === null) return undefined;
    cursor.push({ incarnation: match[1] as string, seq: Number(match[2]) });
  }
  const start = Array.from({ length: Math.max(0, count - cursor.length) }, () => ({ incarnation: null, seq: 0 }));
  return [...cursor, ...start];
}

/** `POST v1/pull` */
export async function pull(request: Request, context: RouteContext): Promise<Response> {
  const body = await readBody(request);
  if (body === undefined) {
    return failure(413, "too_large", `The request has more than ${MAX_REQUEST_BYTES} bytes: ask for fewer objects.`);
  }
  const parsed = parsePull(body);
  if (typeof parsed === "string") return failure(400, "bad_request", parsed);
  const { readable, writable } = new IdentityTransformStream();
  context.ctx.waitUntil(writeFrames(parsed, known(context), writable));
  return new Response(readable, {
    headers: {
      "Content-Type": "application/x-ndjson; charset=utf-8",
      "Cache-Control": "no-store",
      ...contentEncoding(request),
    },
  });
}

/** A request's body as text; undefined where it is too large. */
export async function readBody(request: Request): Promise<string | undefined> {
  if (Number(request.headers.get("Content-Length") ?? 0) > MAX_REQUEST_BYTES || request.body === null) return undefined;
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for await (const bytes of request.body as unknown as AsyncIterable<Uint8Array>) {
    size += bytes.length;
    if (size > MAX_REQUEST_BYTES) return undefined;
    text += decoder.decode(bytes, { stream: true });
  }
  return text + decoder.decode();
}

interface PullRequest {
  seed: string;
  filter?: Filter;
  objects: PullObject[];
}

/** The request, or what is wrong with it. */
function parsePull(text: string): PullRequest | string {
  let body: Partial<PullRequest> | null;
  try {
    body = JSON.parse(text);
  } catch {
    return "The body is not JSON.";
  }
  if (typeof body !== "object" || body === null) return "The body has to be a JSON object.";
  if (parseSeed(body.seed) === undefined) return "seed has to be 16 hexadecimal digits.";
  if (body.filter !== undefined && !validFilter(body.filter)) return "filter has to be {tables, keys} of patterns.";
  if (!Array.isArray(body.objects)) return "objects has to be an array.";
  if (body.objects.length > MAX_BATCH_OBJECTS) return `objects has more than ${MAX_BATCH_OBJECTS} elements.`;
  for (const object of body.objects as Partial<PullObject>[]) {
    if (typeof object?.class !== "string" || typeof object.id !== "string") return "An object needs class and id.";
    if (object.version !== undefined && typeof object.version !== "string") return "version has to be a string.";
    if (object.chunks !== undefined && !validChunks(object.chunks)) return "chunks are not as they were sent.";
  }
  return body as PullRequest;
}

function validChunks(chunks: unknown): boolean {
  const { kv, tables } = (chunks ?? {}) as { kv?: unknown; tables?: unknown };
  if (kv !== undefined && !validList(kv)) return false;
  if (tables === undefined) return true;
  return typeof tables === "object" && tables !== null && Object.values(tables).every(validList);
}

function validList(list: unknown): boolean {
  return (
    Array.isArray(list) &&
    list.every(
      (chunk) =>
        Array.isArray(chunk) &&
        (chunk[0] === null || (Array.isArray(chunk[0]) && chunk[0].length > 0)) &&
        typeof chunk[1] === "string",
    )
  );
}

async function writeFrames(
  request: PullRequest,
  found: Map<string, Namespace>,
  writable: WritableStream<Uint8Array>,
): Promise<void> {
  const encoder = new TextEncoder();
  const answers: Promise<Answer>[] = [];
  let buffer = "";
  let failed = 0;
  const flush = async () => {
    if (buffer === "") return;
    const writer = writable.getWriter();
    const bytes = encoder.encode(buffer);
    buffer = "";
    await writer.write(bytes);
    writer.releaseLock();
  };
  try {
    for (let index = 0; index < request.objects.length; index++) {
      const asked = index + Math.min(CONCURRENT_OBJECTS, FIRST_OBJECTS + index);
      while (answers.length < Math.min(request.objects.length, asked)) {
        answers.push(askObject(request.objects[answers.length] as PullObject, request, found));
      }
      const object = request.objects[index] as PullObject;
      let answer = await (answers[index] as Promise<Answer>);
      if (answer instanceof ReadableStream) {
        await flush();
        try {
          await answer.pipeTo(writable, { preventClose: true, preventAbort: true });
          continue;
        } catch (error) {
          // Ends whatever line was cut short; the client drops it with the object.
          buffer = "\n";
          answer = { code: "object_failed", message: String(error), retry: true };
        }
      }
      if (typeof answer === "string") buffer += answer;
      else {
        failed += 1;
        buffer += line({ frame: "error", class: object.class, id: object.id, ...answer });
      }
      if (buffer.length >= WRITE_BYTES) await flush();
    }
    buffer += line({ frame: "done", objects: request.objects.length, failed });
    await flush();
    await writable.close();
  } catch (error) {
    // The client went away, or stopped reading for good.
    for (const answer of answers) {
      void answer.then((value) => (value instanceof ReadableStream ? value.cancel() : undefined)).catch(() => {});
    }
    await writable.abort(error).catch(() => {});
  }
}

type Answer = string | ReadableStream<Uint8Array> | { code: ErrorCode; message: string; retry: boolean };

async function askObject(
  object: PullObject,
  { seed, filter }: PullRequest,
  found: Map<string, Namespace>,
): Promise<Answer> {
  const namespace = object.class === DIRECTORY_CLASS ? undefined : found.get(object.class);
  if (namespace === undefined) {
    return {
      code: "class_not_found",
      message: `The Worker exports no Durable Object class ${object.class}.`,
      retry: false,
    };
  }
  let id: DurableObjectId;
  try {
    id = namespace.idFromString(object.id);
  } catch {
    return { code: "id_not_valid", message: `${object.id} is not an id of the class ${object.class}.`, retry: false };
  }
  const stub = namespace.get(id) as unknown as { [PULL_METHOD](request: unknown): Promise<Answer> };
  const { promise: late, resolve } = Promise.withResolvers<Answer>();
  const timer = setTimeout(
    () => resolve({ code: "object_timeout", message: `No answer within ${OBJECT_TIMEOUT_MS} ms.`, retry: true }),
    OBJECT_TIMEOUT_MS,
  );
  try {
    return await Promise.race([
      stub[PULL_METHOD]({ class: object.class, seed, filter, version: object.version, chunks: object.chunks }),
      late,
    ]);
  } catch (error) {
    const message = String(error);
    if (message.includes(PULL_METHOD) || /does not support RPC|not.*extend/i.test(message)) {
      return {
        code: "class_not_wrapped",
        message: `The class ${object.class} is exported without durafetchObject().`,
        retry: false,
      };
    }
    return { code: "object_failed", message, retry: (error as { retryable?: unknown }).retryable === true };
  } finally {
    clearTimeout(timer);
  }
}
