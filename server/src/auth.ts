import { MIN_TOKEN_LENGTH } from "./limits.js";

/** The token that the Worker is configured with; undefined where there is none, or one too short to be a secret. */
export function configuredToken(env: unknown): string | undefined {
  const token = (env as { DURAFETCH_TOKEN?: unknown } | undefined)?.DURAFETCH_TOKEN;
  return typeof token === "string" && token.length >= MIN_TOKEN_LENGTH ? token : undefined;
}

/** Whether a request carries the token. Takes the same time wherever they differ, their lengths included. */
export async function isAuthorized(request: Request, token: string): Promise<boolean> {
  const match = /^Bearer +(\S+)$/i.exec(request.headers.get("Authorization") ?? "");
  const [given, expected] = await Promise.all([sha256(match?.[1] ?? ""), sha256(token)]);
  return crypto.subtle.timingSafeEqual(given, expected) && match !== null;
}

/** Plain HTTP would show the token to the network; on loopback there is none in between. */
export function isSecure(url: URL): boolean {
  if (url.protocol === "https:") return true;
  return /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(url.hostname) || url.hostname.endsWith(".localhost");
}

function sha256(text: string): Promise<ArrayBuffer> {
  return crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
}
