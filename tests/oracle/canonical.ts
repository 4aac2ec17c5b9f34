// Says in one canonical text what a value is, whatever form it was stored in. Each line of standard input is a JSON
// array of requests: {v8: hex} as storage keeps it, {devalue: text}, {json: text}, or {name} of tests/workers/values.ts.
import { createInterface } from "node:readline";
import v8 from "node:v8";
import { parse } from "devalue";
import { VALUES } from "../workers/values.js";

const TYPED = [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array,
  Float64Array, BigInt64Array, BigUint64Array, DataView] as any[];

function canonical(value: any, seen: Map<object, number> = new Map()): any {
  const say = (part: any) => canonical(part, seen);
  switch (typeof value) {
    case "string": return value;
    case "number": return Object.is(value, -0) ? ["number", "-0"] : ["number", String(value)];
    case "bigint": return ["bigint", String(value)];
    case "undefined": return ["undefined"];
    case "boolean": return value;
  }
  if (value === null) return null;
  if (seen.has(value)) return ["again", seen.get(value)];
  seen.set(value, seen.size);
  if (value instanceof Date) return ["date", value.getTime()];
  if (value instanceof RegExp) return ["regexp", value.source, value.flags];
  if (value instanceof Map) return ["map", [...value].map(([k, v]) => [say(k), say(v)])];
  if (value instanceof Set) return ["set", [...value].map(say)];
  if (value instanceof ArrayBuffer) return ["buffer", Buffer.from(value).toString("hex")];
  const kind = TYPED.find((each) => value instanceof each);
  if (kind) return [kind.name, Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex")];
  if (value instanceof Number || value instanceof String || value instanceof Boolean || value instanceof BigInt) {
    return ["boxed", say(value.valueOf())];
  }
  const pairs = Object.keys(value).map((key) => [key, say(value[key])]);
  return [Array.isArray(value) ? `array ${value.length}` : "object", pairs];
}

const REVIVERS = {
  Array: ([elements, pairs]: any) => {
    for (const [key, item] of pairs) elements[key] = item;
    return elements;
  },
  Entries: (pairs: any) => pairs.reduce((made: any, [key, value]: any) => Object.defineProperty(made, key, { value, enumerable: true, configurable: true, writable: true }), {}),
};

function read(request: any): any {
  if ("v8" in request) return v8.deserialize(Buffer.from(request.v8, "hex"));
  if ("devalue" in request) return parse(request.devalue, REVIVERS);
  if ("name" in request) return (VALUES as any)[request.name]();
  return JSON.parse(request.json);
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(JSON.parse(line).map((request: any) => JSON.stringify(canonical(read(request)))))}\n`);
}
