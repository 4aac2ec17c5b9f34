import type { ErrorCode } from "./frames.js";

/** The answer to a request that is refused as a whole. */
export function failure(status: number, code: ErrorCode, message: string): Response {
  return Response.json({ error: { code, message } }, { status });
}

/** The runtime compresses a body by itself whose response says so; here it does where the client takes it. */
export function contentEncoding(request: Request): Record<string, string> {
  // Cloudflare replaces the header, and keeps what the client sent:
  // https://developers.cloudflare.com/workers/runtime-apis/request/#incomingrequestcfproperties
  const { clientAcceptEncoding } = (request.cf ?? {}) as { clientAcceptEncoding?: string };
  const accepted = clientAcceptEncoding ?? request.headers.get("Accept-Encoding") ?? "";
  return /\bgzip\b/.test(accepted) ? { "Content-Encoding": "gzip" } : {};
}
