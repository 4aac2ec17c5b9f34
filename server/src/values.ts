import { stringify } from "devalue";
import { MAX_DEPTH } from "./limits.js";

/** A stored value on the wire: JSON text where JSON holds it exactly, else devalue text. */
export type EncodedValue = { json: string } | { devalue: string };

/** Encodes a value that Durable Object storage returned. Never throws: see `Unsupported` in PROTOCOL.md. */
export function encodeValue(value: unknown): EncodedValue {
  if (survivesJson(value)) return { json: JSON.stringify(value) };
  try {
    return { devalue: stringify(value, REDUCERS) };
  } catch (error) {
    const reason = error instanceof RangeError ? "nested too deeply to be encoded" : String(error);
    return { devalue: stringify(new Unsupported(reason), REDUCERS) };
  }
}

/** A part of a value that cannot be read from within the Workers runtime, such as the bytes of a Blob. */
class Unsupported {
  constructor(readonly reason: string) {}
}

/** Whether `JSON.parse(JSON.stringify(value))` is the same value, shared references included. */
export function survivesJson(value: unknown, depth = 0, seen?: Set<object>): boolean {
  switch (typeof value) {
    case "string":
      return value.isWellFormed();
    case "number":
      return Number.isFinite(value) && !Object.is(value, -0);
    case "boolean":
      return true;
    case "object":
      break;
    default:
      return false;
  }
  if (value === null) return true;
  if (depth >= MAX_DEPTH) return false;
  if (seen === undefined) seen = new Set();
  else if (seen.has(value)) return false;
  seen.add(value);
  if (Array.isArray(value)) {
    const keys = Object.keys(value);
    if (keys.length !== value.length) return false;
    if (keys.length > 0 && keys[keys.length - 1] !== String(keys.length - 1)) return false;
    for (const item of value) if (!survivesJson(item, depth + 1, seen)) return false;
    return true;
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return false;
  for (const [key, item] of Object.entries(value)) {
    if (key === "__proto__" || !key.isWellFormed() || !survivesJson(item, depth + 1, seen)) return false;
  }
  return true;
}

const DEVALUE_TAGS = new Set(
  (
    "Number String Boolean BigInt Date RegExp Set Map ArrayBuffer DataView Int8Array Uint8Array Uint8ClampedArray " +
    "Int16Array Uint16Array Float16Array Int32Array Uint32Array Float32Array Float64Array BigInt64Array BigUint64Array"
  ).split(" "),
);

/**
 * What devalue lacks of the structured clone algorithm, as custom types. devalue asks each of them about each part
 * of a value, and takes a truthy answer as the payload.
 */
const REDUCERS: Record<string, (value: unknown) => unknown> = {
  Error: (value) => (isError(value) ? describeError(value) : undefined),
  // An array with properties besides its elements.
  Array: (value) => {
    if (!Array.isArray(value)) return undefined;
    const named = Object.keys(value).filter((key) => !isIndex(key));
    if (named.length === 0) return undefined;
    return [value.slice(), named.map((key) => [key, (value as unknown as Record<string, unknown>)[key]])];
  },
  // An object with a key that devalue refuses.
  Entries: (value) => (isPlainObject(value) && Object.hasOwn(value, "__proto__") ? Object.entries(value) : undefined),
  Unsupported: (value) => {
    if (value instanceof Unsupported) return value.reason;
    if (typeof value !== "object" || value === null || Array.isArray(value) || isPlainObject(value)) return undefined;
    const tag = Object.prototype.toString.call(value).slice(8, -1);
    return DEVALUE_TAGS.has(tag) ? undefined : `${tag} cannot be read synchronously`;
  },
};

function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function isIndex(key: string): boolean {
  const n = Number(key);
  return Number.isInteger(n) && n >= 0 && n < 4294967295 && String(n) === key;
}

function isError(value: unknown): value is Error {
  return value instanceof Error || Object.prototype.toString.call(value) === "[object Error]";
}

function describeError(error: Error): Record<string, unknown> {
  const own: Record<string, unknown> = {};
  for (const key of Object.getOwnPropertyNames(error)) {
    if (key === "message" || key === "stack" || key === "name") continue;
    own[key] = (error as unknown as Record<string, unknown>)[key];
  }
  return { name: error.name, message: error.message, stack: error.stack, properties: Object.entries(own) };
}
