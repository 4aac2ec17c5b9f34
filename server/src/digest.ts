import { eachBlock, words } from "./blocks.js";

/** The seed of a mirror's digests: chosen by the client, so that nobody who writes data can foresee them. */
export type Seed = readonly [number, number];

/** Reads a seed of 16 hexadecimal digits; undefined where the text is not one. */
export function parseSeed(text: unknown): Seed | undefined {
  if (typeof text !== "string" || !/^[0-9a-f]{16}$/.test(text)) return undefined;
  return [Number.parseInt(text.slice(0, 8), 16) | 0, Number.parseInt(text.slice(8), 16) | 0];
}

/** The two halves of a digest under way. */
const lanes = new Int32Array(2);

/**
 * A 64-bit digest of texts, one after the other, as 16 hexadecimal digits. Synchronous, because a chunk and its digest belong to one
 * turn of the event loop, and `crypto.subtle` is asynchronous. It detects change; it is not a signature.
 */
export function digest(seed: Seed, ...texts: string[]): string {
  lanes[0] = seed[0] ^ 0x9e3779b9;
  lanes[1] = seed[1] ^ 0x85ebca6b;
  for (const text of texts) eachBlock(text, addBlock);
  let [a, b] = lanes as unknown as [number, number];
  a = mix(a ^ Math.imul(b, 0xc2b2ae3d));
  b = mix(b ^ Math.imul(a, 0x27d4eb2f));
  return hex(a) + hex(b);
}

function addBlock(length: number): void {
  let a = lanes[0]! ^ length;
  let b = lanes[1]! ^ length;
  const count = (length + 3) >>> 2;
  for (let at = 0; at < count; at++) {
    const word = words[at]!;
    a = Math.imul(a ^ word, 0x9e3779b1);
    a = (a << 15) | (a >>> 17);
    // Turned, so that no difference between two texts meets both halves at the same place.
    b = Math.imul(b ^ ((word << 16) | (word >>> 16)), 0x85ebca77);
    b = (b << 13) | (b >>> 19);
  }
  lanes[0] = a;
  lanes[1] = b;
}

function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

function hex(h: number): string {
  return (h >>> 0).toString(16).padStart(8, "0");
}
