import { parse } from "devalue";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type HeldRange, heldRanges, type RangeReader, targetBytes, walk } from "../src/chunking.js";
import { digest, parseSeed, type Seed } from "../src/digest.js";
import type { Bound, Chunk } from "../src/frames.js";
import { compareKeys } from "../src/keys.js";
import { mayWrite, Tracker } from "../src/tracker.js";
import { encodeValue } from "../src/values.js";
import { wrappedClasses } from "../src/wrapped.js";
import { REVIVERS } from "./revivers.js";

const SEED: Seed = [1, 2];

describe("digest", () => {
  test("differs for different texts and seeds", () => {
    const seen = new Set<string>();
    for (let i = 0; i < 50_000; i++) seen.add(digest(SEED, `row ${i}`));
    expect(seen.size).toBe(50_000);
    expect(digest(SEED, "x")).not.toBe(digest([1, 3], "x"));
    expect(digest(SEED, "")).toMatch(/^[0-9a-f]{16}$/);
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
