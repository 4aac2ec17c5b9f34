import type { ErrorCode } from "./frames.js";

/** The answer to a request that is refused as a whole. */
export function failure(status: number, code: ErrorCode, message: string): Response {
  return Response.json({ error: { code, message } }, { status });
}
