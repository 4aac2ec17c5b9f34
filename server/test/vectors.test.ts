// The cases of protocol/vectors, run by the server; tests/conformance/test_vectors.py runs the same files.
import { readFileSync } from "node:fs";
import { parse } from "devalue";
import { describe, expect, test } from "vitest";
import { matcher } from "../src/filters.js";
import { type Frame, line, rangeLine } from "../src/frames.js";
import { compareKeys } from "../src/keys.js";
import { encodeValue } from "../src/values.js";
import { REVIVERS } from "./revivers.js";

// biome-ignore lint/suspicious/noExplicitAny: vectors are data
function vectors(name: string): any {
  return JSON.parse(readFileSync(new URL(`../../protocol/vectors/${name}.json`, import.meta.url), "utf8"));
}

describe("values", () => {
  for (const { name, json, devalue } of vectors("values").values) {
    test(name, () => {
      const value = devalue === undefined ? JSON.parse(json) : parse(devalue, REVIVERS);
      expect(encodeValue(value)).toEqual(devalue === undefined ? { json } : { devalue });
    });
  }
});

describe("frames", () => {
  for (const text of vectors("frames").lines as string[]) {
    test(text, () => {
      const frame = JSON.parse(text);
      const { table, after, upto, rows, digest } = frame;
      const made =
        frame.frame === "range"
          ? rangeLine(table ?? null, after, upto, JSON.stringify(rows), digest)
          : line(frame as Frame);
      expect(made.endsWith("\n")).toBe(true);
      expect(JSON.parse(made)).toEqual(frame);
      expect(made.startsWith(`{"frame":"${frame.frame}"`)).toBe(true);
    });
  }
});

test("keys", () => {
  const keys: string[] = vectors("keys").in_order;
  expect([...keys].reverse().sort(compareKeys)).toEqual(keys);
});

describe("patterns", () => {
  for (const { pattern, text, matches } of vectors("patterns").patterns) {
    test(`${pattern} ${text}`, () => {
      expect(matcher({ include: [pattern] })(text)).toBe(matches);
      expect(matcher({ exclude: [pattern] })(text)).toBe(!matches);
    });
  }
});
