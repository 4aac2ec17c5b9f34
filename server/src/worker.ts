import { configuredToken, isAuthorized, isSecure } from "./auth.js";
import { discover } from "./discover.js";
import { failure } from "./responses.js";
import { changes, type DurafetchWorkerOptions, info, pull, type RouteContext } from "./routes.js";
import { watch } from "./watch.js";

export type { DurafetchWorkerOptions };

const PREFIX = "/__durafetch/";
const HANDLERS = ["scheduled", "queue", "email", "tail", "tailStream", "trace", "test"] as const;

// biome-ignore lint/suspicious/noExplicitAny: handlers are passed on with the arguments they came with
type Handler = Record<string, any>;
// biome-ignore lint/suspicious/noExplicitAny: a class expression's constructor must take any arguments
type EntrypointClass = new (...args: any[]) => any;

/**
 * Adds Durafetch's routes to a Worker's default export: a handler object, an instance of a framework's class with a
 * `fetch` method, or a `WorkerEntrypoint` class. Every other request goes to the app, unchanged.
 */
export function durafetchWorker<T extends object>(handler: T, options: DurafetchWorkerOptions = {}): T {
  if (typeof handler === "function")
    return wrapEntrypoint(handler as unknown as EntrypointClass, options) as unknown as T;
  const app = handler as Handler;
  const wrapped: Handler = {
    fetch(request: Request, env: unknown, ctx: ExecutionContext) {
      return route(request, env, ctx, options) ?? callFetch(app, request, env, ctx);
    },
  };
  for (const name of HANDLERS) {
    if (typeof app[name] === "function") wrapped[name] = (...args: unknown[]) => app[name](...args);
  }
  return wrapped as T;
}

function wrapEntrypoint(Class: EntrypointClass, options: DurafetchWorkerOptions): EntrypointClass {
  const Wrapped = class extends Class {
    fetch(request: Request) {
      const { env, ctx } = this as unknown as { env: unknown; ctx: ExecutionContext };
      return route(request, env, ctx, options) ?? callFetch({ fetch: super.fetch?.bind(this) }, request);
    }
  };
  Object.defineProperty(Wrapped, "name", { value: Class.name, configurable: true });
  return Wrapped;
}

function callFetch(app: Handler, ...args: unknown[]): unknown {
  if (typeof app.fetch !== "function") throw new TypeError("Handler does not export a fetch() function.");
  return app.fetch(...args);
}

/** The answer to a request for Durafetch; undefined for every other. */
function route(
  request: Request,
  env: unknown,
  ctx: ExecutionContext,
  options: DurafetchWorkerOptions,
): Promise<Response> | undefined {
  // A cheap look first: this is on the path of every request of the app.
  if (!request.url.includes(PREFIX)) return undefined;
  const url = new URL(request.url);
  return url.pathname.startsWith(PREFIX) ? answer(request, url, env, ctx, options) : undefined;
}

async function answer(
  request: Request,
  url: URL,
  env: unknown,
  ctx: ExecutionContext,
  options: DurafetchWorkerOptions,
): Promise<Response> {
  const token = configuredToken(env);
  if (token === undefined) return failure(404, "not_found", "Not found.");
  if (!isSecure(url)) return failure(403, "insecure", "Plain HTTP is accepted on loopback only. Use https.");
  if (!(await isAuthorized(request, token))) {
    return failure(401, "unauthorized", "The bearer token is missing or is not this Worker's DURAFETCH_TOKEN.");
  }
  const path = url.pathname.slice(PREFIX.length);
  const call = Object.hasOwn(CALLS, path) ? CALLS[path] : undefined;
  if (call === undefined) {
    return failure(404, "not_found", "There is no such route in this version of durafetch-server.");
  }
  if (request.method !== call.method) {
    return failure(405, "method_not_allowed", `${path} does not answer ${request.method}.`);
  }
  return call.answer({ env, ctx, options }, url, request);
}

type Answer = (context: RouteContext, url: URL, request: Request) => Promise<Response>;

const CALLS: Record<string, { method: string; answer: Answer }> = {
  "v1/info": { method: "GET", answer: info },
  "v1/changes": { method: "GET", answer: (context, url, request) => changes(request, url, context) },
  "v1/watch": { method: "GET", answer: (context, url, request) => watch(request, url, context) },
  "v1/pull": { method: "POST", answer: (context, _, request) => pull(request, context) },
  "v1/discover": { method: "POST", answer: (context, _, request) => discover(request, context) },
};
