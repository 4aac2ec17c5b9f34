/** Code units of a text that are looked at together: little enough that functions over them are called often, and so optimized soon. */
const BLOCK_UNITS = 8192;

const encoder = new TextEncoder();
/** A code unit takes three bytes at most (of a surrogate pair, two); a whole number of words is added to be cleared. */
const bytes = new Uint8Array(3 * BLOCK_UNITS + 16);

/**
 * The UTF-8 bytes of a block, as little-endian words, zeros after its end; each block overwrites the one before.
 * (V8 gives up optimized code for a Uint8Array once such an array was enqueued on a stream; for this one it does not.)
 */
export const words = new Int32Array(bytes.buffer);

/** Calls `look` with the number of bytes of each block of a text, in order, while `words` has them. */
export function eachBlock(text: string, look: (length: number) => void): void {
  for (let from = 0; from < text.length; ) {
    let to = Math.min(text.length, from + BLOCK_UNITS);
    // A surrogate pair stays in one block.
    if (to < text.length && (text.charCodeAt(to - 1) & 0xfc00) === 0xd800) to -= 1;
    const { written } = encoder.encodeInto(text.slice(from, to), bytes);
    bytes.fill(0, written, written + 16);
    look(written);
    from = to;
  }
}
