import { crc32 as crc32OfZlib } from "node:zlib";
import { parse } from "devalue";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { crc32 } from "../src/checksum.js";
import { type HeldRange, heldRanges, type RangeReader, targetBytes, walk } from "../src/chunking.js";
import { digest, parseSeed, type Seed } from "../src/digest.js";
import { EntryReader } from "../src/entries.js";
import { type Bound, type Chunk, RangeLines } from "../src/frames.js";
import { compareKeys } from "../src/keys.js";
import { mayWrite, Tracker } from "../src/tracker.js";
import { encodeValue } from "../src/values.js";
import { wrappedClasses } from "../src/wrapped.js";
import { REVIVERS } from "./revivers.js";

const SEED: Seed = [1, 2];

test("checksums of texts of several blocks, surrogate pairs at their ends", () => {
  const text = fc.tuple(fc.nat(3), fc.constantFrom("a", "é", "€", "😀"), fc.integer({ min: 8000, max: 20_000 }));
  fc.assert(
    fc.property(text, ([indent, unit, count]) => {
      const whole = "x".repeat(indent) + unit.repeat(count);
      return crc32(whole, 0) === crc32OfZlib(whole);
    }),
  );
});

test("entries are read as they stand, however they are listed", () => {
  const keys = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 300 });
  const bounds = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 5 });
  fc.assert(
    fc.property(keys, bounds, fc.integer({ min: 1, max: 3000 }), fc.boolean(), (keys, bounds, bytes, large) => {
      const stored = keys.sort(compareKeys).map((key, n): [string, unknown] => [key, "v".repeat(n % 50)]);
      const listed: number[] = [];
      const list = ({ startAfter, end, limit }: { startAfter?: string; end?: string; limit: number }) => {
        const from = stored.filter(
          ([key]) =>
            (startAfter === undefined || compareKeys(key, startAfter) > 0) &&
            (end === undefined || compareKeys(key, end) < 0),
        );
        listed.push(limit);
        return from.slice(0, limit);
      };
      const sql = { databaseSize: large ? 1e9 : 0 };
      const reader = new EntryReader({ sql, kv: { list } } as never, (key) => !key.startsWith("z"));
      let after: Bound = null;
      for (const upto of [...bounds.sort(compareKeys).map((key): Bound => [key]), null]) {
        let more = true;
        while (more) {
          const read = reader.read(after, upto, bytes);
          const from = after;
          const inRange = stored.filter(
            ([key]) =>
              (from === null || compareKeys(key, String(from[0])) > 0) &&
              (upto === null || compareKeys(key, String(upto[0])) <= 0),
          );
          const end = read.last;
          const taken = inRange.filter(([key]) => end !== null && compareKeys(key, String(end[0])) <= 0);
          expect(JSON.parse(read.rows)).toEqual(taken.filter(([key]) => !key.startsWith("z")));
          expect(read.more).toBe(taken.length < inRange.length);
          if (read.more) expect(taken.length).toBeGreaterThan(0);
          more = read.more;
          after = more ? read.last : upto;
        }
      }
      if (large) expect(Math.max(...listed)).toBeLessThanOrEqual(33);
    }),
  );
});

test("chunks that follow each other travel as one range, up to a size", () => {
  const lines = new RangeLines("t");
  expect(lines.flush()).toBe("");
  expect(lines.add(null, [[["integer", "1"]], "a"], "[[1]]")).toBe("");
  expect(lines.add([["integer", "1"]], [[["integer", "2"]], "b"], "[]")).toBe("");
  expect(lines.add([["integer", "2"]], [null, "c"], "[[3],[4]]")).toBe("");
  expect(JSON.parse(lines.flush())).toEqual({
    frame: "range",
    table: "t",
    after: null,
    chunks: [
      [[["integer", "1"]], "a"],
      [[["integer", "2"]], "b"],
      [null, "c"],
    ],
    rows: [[1], [3], [4]],
  });
  const long = JSON.stringify([["x".repeat(50_000)]]);
  expect(lines.add(null, [[["integer", "1"]], "a"], long)).toBe("");
  expect(JSON.parse(lines.add([["integer", "1"]], [null, "b"], long)).chunks).toEqual([[[["integer", "1"]], "a"]]);
  expect(JSON.parse(lines.flush()).after).toEqual([["integer", "1"]]);
});

describe("digest", () => {
  test("differs for different texts and seeds", () => {
    const seen = new Set<string>();
    for (let i = 0; i < 50_000; i++) seen.add(digest(SEED, `row ${i}`));
    expect(seen.size).toBe(50_000);
    expect(digest(SEED, "x")).not.toBe(digest([1, 3], "x"));
    expect(digest(SEED, "")).toMatch(/^[0-9a-f]{16}$/);
  });
  test("does not depend on what was digested before, nor on how texts are joined at blocks", () => {
    const before = digest(SEED, "row");
    digest(SEED, "\u{10ffff}".repeat(20_000));
    expect(digest(SEED, "row")).toBe(before);
  });
  test("any single change of a unit changes it", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, maxLength: 200 }), fc.nat(), (text, at) => {
        const i = at % text.length;
        const other = text.slice(0, i) + String.fromCharCode(text.charCodeAt(i) ^ 1) + text.slice(i + 1);
        return digest(SEED, text) !== digest(SEED, other);
      }),
    );
  });
  test("seeds", () => {
    expect(parseSeed("0123456789abcdef")).toEqual([0x01234567, 0x89abcdef | 0]);
    for (const bad of ["", "0123", 5, null, "0123456789ABCDEF", `${"0".repeat(16)}\n`]) {
      expect(parseSeed(bad)).toBeUndefined();
    }
  });
});

test("what may write is never taken for a read", () => {
  for (const sql of [
    "INSERT INTO t VALUES (1)",
    "/* c */ update t set a = 1",
    "WITH x AS (SELECT 1) DELETE FROM t",
    "SELECT 1; DROP TABLE t",
    "\n\tREPLACE INTO t VALUES (1)",
    "CREATE TABLE t(a)",
    "ALTER TABLE t ADD b",
  ]) {
    expect(mayWrite(sql), sql).toBe(true);
  }
  for (const sql of ["SELECT * FROM t", "WITH x AS (SELECT 1) SELECT * FROM x", "SELECT updated_at FROM t"]) {
    expect(mayWrite(sql), sql).toBe(false);
  }
});

test("a value of JSON's survives encoding; others survive devalue", () => {
  fc.assert(
    fc.property(fc.jsonValue({ stringUnit: "grapheme" }), (value) => {
      const encoded = encodeValue(value);
      const back = "json" in encoded ? JSON.parse(encoded.json) : parse(encoded.devalue, REVIVERS);
      expect(back).toEqual(value);
    }),
  );
  fc.assert(
    fc.property(
      fc.anything({ withDate: true, withMap: true, withSet: true, withBigInt: true, withTypedArray: true }),
      (v) => {
        let value: unknown;
        try {
          value = structuredClone(v);
        } catch {
          return;
        }
        const encoded = encodeValue(value);
        if ("json" in encoded) expect(JSON.parse(encoded.json)).toStrictEqual(value);
      },
    ),
  );
});

test("nesting and sharing", () => {
  let deep: unknown = 1;
  for (let i = 0; i < 100_000; i++) deep = [deep];
  expect("devalue" in encodeValue(deep)).toBe(true);
  const shared = {};
  expect("devalue" in encodeValue([shared, shared])).toBe(true);
  expect("json" in encodeValue([{}, {}])).toBe(true);
});

/** A table in memory: keys are numbers. */
class MemoryReader implements RangeReader {
  reads = 0;
  constructor(readonly rows: Map<number, string>) {}
  read(after: Bound, upto: Bound, bytes: number | undefined) {
    this.reads++;
    const keys = [...this.rows.keys()].sort((a, b) => a - b);
    const inside = keys.filter(
      (k) => (after === null || k > Number(after[0])) && (upto === null || k <= Number(upto[0])),
    );
    const taken: number[] = [];
    let size = 2;
    for (const key of inside) {
      if (taken.length > 0 && bytes !== undefined && size >= bytes) break;
      taken.push(key);
      size += (this.rows.get(key) as string).length + 10;
    }
    const rows = JSON.stringify(taken.map((key) => [key, this.rows.get(key)]));
    return {
      rows,
      count: taken.length,
      last: taken.length ? [taken.at(-1) as number] : after,
      more: taken.length < inside.length,
    };
  }
}

test("walking makes any copy equal to the table, and its chunks cover it", () => {
  const row = fc.tuple(fc.nat(300), fc.integer({ min: 0, max: 3000 }));
  fc.assert(
    fc.property(fc.array(fc.array(row, { maxLength: 200 }), { minLength: 1, maxLength: 6 }), (states) => {
      let chunks: Chunk[] | undefined;
      const copy = new Map<number, string>();
      for (const state of states) {
        const table = new Map(state.map(([key, size]) => [key, "x".repeat(size)]));
        const next: Chunk[] = [];
        let before: Bound = null;
        for (const step of walk(
          new MemoryReader(table),
          heldRanges(chunks),
          (t) => digest(SEED, t),
          () => false,
        )) {
          expect(step.after).toEqual(before);
          before = step.upto;
          next.push([step.upto, step.digest]);
          if (!step.send) continue;
          for (const key of copy.keys()) {
            if (
              (step.after === null || key > Number(step.after[0])) &&
              (step.upto === null || key <= Number(step.upto[0]))
            ) {
              copy.delete(key);
            }
          }
          for (const [key, value] of JSON.parse(step.rows)) copy.set(key, value);
        }
        expect(before).toBeNull();
        expect(new Map([...copy].sort())).toEqual(new Map([...table].sort()));
        chunks = next;
      }
    }),
    { numRuns: 60 },
  );
});

test("held ranges", () => {
  expect(heldRanges(undefined)).toEqual([{ after: null, upto: null, digest: undefined }]);
  const ranges: HeldRange[] = heldRanges([
    [["a"], "1"],
    [null, "2"],
  ]);
  expect(ranges.map((range) => range.digest)).toEqual(["1", "2"]);
  expect(heldRanges([[["a"], "1"]]).at(-1)).toEqual({ after: ["a"], upto: null, digest: undefined });
  expect(targetBytes(0)).toBeLessThan(targetBytes(10_000_000));
});

test("keys are ordered by their UTF-8 bytes", () => {
  const bytes = (text: string) => Buffer.from(text);
  const text = fc.string({ unit: "binary", maxLength: 8 });
  fc.assert(
    fc.property(text, text, (a, b) => {
      expect(Math.sign(compareKeys(a, b))).toBe(Buffer.compare(bytes(a), bytes(b)));
    }),
  );
});

test("the tracker remembers keys since a version, or says that it does not", () => {
  const tracker = new Tracker();
  tracker.kvChanged(["a"]);
  const since = tracker.mutations;
  tracker.kvChanged(["b"]);
  expect(tracker.keysSince(since)).toEqual(["b"]);
  tracker.cleared();
  expect(tracker.keysSince(since)).toBeUndefined();
  const now = tracker.mutations;
  for (let i = 0; i < 10_001; i++) tracker.kvChanged([`k${i}`]);
  expect(tracker.keysSince(now)).toBeUndefined();
});

test("announcing: once until read", () => {
  const tracker = new Tracker();
  let announced = 0;
  tracker.onDirty = () => announced++;
  tracker.sqlChanged();
  expect(announced).toBe(0); // its start will be announced
  tracker.started();
  tracker.sqlChanged();
  expect(announced).toBe(1);
  tracker.read(false);
  tracker.kvChanged(["a"]);
  tracker.kvChanged(["b"]);
  expect(announced).toBe(2);
});

test("which classes are wrapped", () => {
  expect(wrappedClasses(["A"], new Set(["A"])).get("A")).toBe(true);
  expect(wrappedClasses(["A"], new Set()).get("A")).toBe(false);
});
