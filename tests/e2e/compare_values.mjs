// Compares stored bytes with what the mirror kept: V8's own deserializer (Node.js) against devalue and JSON.
// Reads [{key, stored (hex), val, devalue}] from standard input; writes the keys that differ, with the reason.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import v8 from "node:v8";
import { parse } from "../../server/node_modules/devalue/src/index.js";

const revivers = {
  Error: ({ name, message, stack, properties }) => {
    const error = new globalThis[name](message);
    Object.defineProperty(error, "stack", { value: stack, configurable: true, writable: true });
    for (const [key, value] of properties) {
      Object.defineProperty(error, key, { value, configurable: true, writable: true, enumerable: false });
    }
    return error;
  },
  Array: ([elements, named]) => Object.assign(elements, Object.fromEntries(named)),
  Entries: (entries) => {
    const made = {};
    for (const [key, value] of entries) Object.defineProperty(made, key, { value, enumerable: true, writable: true, configurable: true });
    return made;
  },
};
const differing = {};
const skipped = [];
for (const { key, stored, val, devalue } of JSON.parse(readFileSync(0, "utf8"))) {
  const expected = v8.deserialize(Buffer.from(stored, "hex"));
  try {
    const actual = devalue === null ? JSON.parse(val) : parse(devalue, revivers);
    // workerd stores errors as host objects of its own, which Node.js cannot read.
    if (actual instanceof Error) skipped.push(key);
    else assert.deepStrictEqual(actual, expected);
  } catch (error) {
    differing[key] = String(error.message).slice(0, 300);
  }
}
console.log(JSON.stringify({ differing, skipped }));
