// The cases of protocol/vectors, run by the server; tests/conformance/test_vectors.py runs the same files.
import { readFileSync } from "node:fs";
import { parse } from "devalue";
import { describe, expect, test } from "vitest";
import { crc32 } from "../src/checksum.js";
import { matcher } from "../src/filters.js";
import { endLine, type Frame, line, rangeLine } from "../src/frames.js";
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
      const { table, after, chunks, rows } = frame;
      const end = endLine(frame.version, frame.rows_read);
      const made =
        frame.frame === "range"
          ? rangeLine(table ?? null, after, chunks, JSON.stringify(rows))
          : frame.frame === "end"
            ? end.body + end.tail(frame.crc32)
            : line(frame as Frame);
      expect(made.endsWith("\n")).toBe(true);
      expect(JSON.parse(made)).toEqual(frame);
      expect(made.startsWith(`{"frame":"${frame.frame}"`)).toBe(true);
    });
  }
});

test("checksums", () => {
  for (const [text, checksum] of vectors("frames").checksums as [string, number][]) {
    expect(crc32(text, 0)).toBe(checksum);
    for (let cut = 0; cut <= text.length; cut++) {
      if (text.slice(0, cut).isWellFormed())
        expect(crc32(text.slice(cut), crc32(text.slice(0, cut), 0))).toBe(checksum);
    }
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
