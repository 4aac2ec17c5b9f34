import type { Bound, Chunk } from "./frames.js";
import { MAX_CHUNK_BYTES, MIN_CHUNK_BYTES } from "./limits.js";

/** The size to aim for in the next chunk of a table of which `bytes` were read: small at first, then growing. */
export function targetBytes(bytes: number): number {
  return Math.min(MAX_CHUNK_BYTES, Math.max(MIN_CHUNK_BYTES, Math.floor(bytes / 32)));
}

/** One step of a walk: the range between two bounds that the client holds, and its digest there. */
export interface HeldRange {
  after: Bound;
  upto: Bound;
  /** The client's digest for exactly this range; undefined where it has none. */
  digest: string | undefined;
}

/** The ranges that a client holds, from −∞ to +∞ without a gap; one unknown range where it holds nothing. */
export function heldRanges(chunks: readonly Chunk[] | undefined): HeldRange[] {
  const ranges: HeldRange[] = [];
  let after: Bound = null;
  for (const [upto, digest] of chunks ?? []) {
    ranges.push({ after, upto, digest });
    if (upto === null) return ranges;
    after = upto;
  }
  ranges.push({ after, upto: null, digest: undefined });
  return ranges;
}

/** What was read between two bounds. */
export interface ReadRange {
  /** JSON text of the rows: an array of arrays. */
  rows: string;
  count: number;
  /** The last row's key; null where there is no row. */
  last: Bound;
  /** There are rows after `last` within the bounds. */
  more: boolean;
}

/** How the rows of one table, or the entries, are read; each read is complete and holds no cursor afterwards. */
export interface RangeReader {
  /** Reads rows with `after < key <= upto` in key order: about `bytes` of them, at least one; all, where undefined. */
  read(after: Bound, upto: Bound, bytes: number | undefined): ReadRange;
}

/** A chunk that was read: to be sent, or only its digest kept since the client has the same. */
export type WalkStep = { after: Bound; upto: Bound; digest: string; rows: string; send: boolean; read: number };

/** A held range that grew is split once it has this many times the aim. */
const SPLIT_AT = 2;

/** Walks a table along the ranges that the client holds: splits those that grew, joins those that became empty. */
export function* walk(
  reader: RangeReader,
  held: readonly HeldRange[],
  digestOf: (rows: string) => string,
  unchanged: (range: HeldRange) => boolean,
): Generator<WalkStep> {
  let total = 0;
  for (let index = 0; index < held.length; index++) {
    const range = held[index] as HeldRange;
    if (range.digest !== undefined && unchanged(range)) {
      yield { after: range.after, upto: range.upto, digest: range.digest, rows: "", send: false, read: 0 };
      continue;
    }
    let { after } = range;
    let first = true;
    for (;;) {
      const target = targetBytes(total);
      const known = first && range.digest !== undefined;
      const read = reader.read(after, range.upto, known ? SPLIT_AT * MAX_CHUNK_BYTES : target);
      total += read.rows.length;
      if (known && !read.more) {
        const digest = digestOf(read.rows);
        if (digest === range.digest) {
          yield { after, upto: range.upto, digest, rows: "", send: false, read: read.rows.length };
          break;
        }
        if (read.rows.length <= SPLIT_AT * Math.max(target, MIN_CHUNK_BYTES)) {
          const next = held[index + 1];
          if (read.count > 0 || next === undefined) {
            yield { after, upto: range.upto, digest, rows: read.rows, send: true, read: read.rows.length };
            break;
          }
          // Empty now: joined with what follows, so that a table that shrinks does not keep its old chunks.
          held = [...held];
          (held as HeldRange[])[index + 1] = { after, upto: next.upto, digest: undefined };
          break;
        }
      }
      first = false;
      if (known) continue;
      const upto = read.more ? read.last : range.upto;
      yield { after, upto, digest: digestOf(read.rows), rows: read.rows, send: true, read: read.rows.length };
      if (!read.more) break;
      after = read.last;
    }
  }
}
