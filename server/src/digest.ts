/** The seed of a mirror's digests: chosen by the client, so that nobody who writes data can foresee them. */
export type Seed = readonly [number, number];

/** Reads a seed of 16 hexadecimal digits; undefined where the text is not one. */
export function parseSeed(text: unknown): Seed | undefined {
  if (typeof text !== "string" || !/^[0-9a-f]{16}$/.test(text)) return undefined;
  return [Number.parseInt(text.slice(0, 8), 16) | 0, Number.parseInt(text.slice(8), 16) | 0];
}

/**
 * A 64-bit digest of a text, as 16 hexadecimal digits. Synchronous, because a chunk and its digest belong to one
 * turn of the event loop, and `crypto.subtle` is asynchronous. It detects change; it is not a signature.
 */
export function digest(seed: Seed, text: string): string {
  let a = seed[0] ^ 0x9e3779b9;
  let b = seed[1] ^ 0x85ebca6b;
  const length = text.length;
  for (let i = 0; i < length; i++) {
    const unit = text.charCodeAt(i);
    a = Math.imul(a ^ unit, 0x9e3779b1);
    a = (a << 15) | (a >>> 17);
    b = Math.imul(b ^ unit, 0x85ebca77);
    b = (b << 13) | (b >>> 19);
  }
  a ^= length;
  b ^= length;
  a = mix(a ^ Math.imul(b, 0xc2b2ae3d));
  b = mix(b ^ Math.imul(a, 0x27d4eb2f));
  return hex(a) + hex(b);
}

function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

function hex(h: number): string {
  return (h >>> 0).toString(16).padStart(8, "0");
}
