// Makes random values of every type that V8 can serialize, and says how the server functions write each. Prints JSON
// lines {stored: hex, json?, devalue?}. Arguments: a seed, a count.
import v8 from "node:v8";
import { encodeValue } from "../../server/src/values.js";

let state = Number(process.argv[2]) >>> 0;
function random(): number {
  // https://en.wikipedia.org/wiki/Xorshift
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) / 4294967296;
}
const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
const below = (n: number) => Math.floor(random() * n);
const TEXTS = ["", "a", "é", "日本", "\ud800", "x\udc00y", "<b>", "\u2028", '"\\\n\0', "😀", "__proto__", "1", "-1", "ab".repeat(100)];
const NUMBERS = [0, -0, 1, -1, 2 ** 30, -(2 ** 30), 2 ** 31, 2 ** 32, 2 ** 53, 1e21, 1e-7, 0.1, 5e-324, NaN, Infinity, -Infinity];
const seen: any[] = [];

function number(): number {
  if (random() < 0.5) return pick(NUMBERS);
  const bits = new BigUint64Array([BigInt(below(2 ** 32)) | (BigInt(below(2 ** 32)) << 32n)]);
  return random() < 0.5 ? new Float64Array(bits.buffer)[0]! : (random() - 0.5) * 10 ** below(25);
}

/** Half of the values are made of what JSON has, and of parts that stand in them twice. */
let plain = false;
const PLAIN_KINDS = [0, 2, 3, 5, 12, 12, 15, 17.5, 17.5];

function value(depth: number): any {
  const kind = plain ? pick(depth > 4 ? [0, 2, 5, 12] : PLAIN_KINDS) : below(depth > 4 ? 9 : 20);
  switch (kind) {
    case 0: return null;
    case 1: return undefined;
    case 2: return random() < 0.5;
    case 3: case 4: return plain ? below(1000) : number();
    case 5: case 6: return plain ? pick(["", "a", "日本"]) : pick(TEXTS);
    case 7: return BigInt(below(1000) - 500) ** BigInt(below(40));
    case 8: return new Date(pick([0, NaN, 8.64e15, -8.64e15, -62198755200000, 253402300800000, below(2 ** 42), -below(2 ** 45)]));
    case 9: return Object(pick<any>([number(), pick(TEXTS), true, 5n]));
    case 10: return new RegExp(pick(["a", "", "/", "[b]", "\n", "é"]), pick(["", "g", "giu", "dgimsuy", "v"]));
    case 11: {
      const error: any = new (pick<any>([Error, TypeError, RangeError, SyntaxError, EvalError, URIError, ReferenceError]))(pick(TEXTS));
      if (random() < 0.3) error.cause = value(depth + 1);
      return keep(error);
    }
    case 12: return seen.length > 0 ? pick(seen) : null;
    case 13: {
      const map = keep(new Map());
      for (let i = below(4); i > 0; i--) map.set(value(depth + 1), value(depth + 1));
      return map;
    }
    case 14: {
      const set = keep(new Set());
      for (let i = below(4); i > 0; i--) set.add(value(depth + 1));
      return set;
    }
    case 15: case 16: {
      const array: any = keep([]);
      for (let i = below(5); i > 0; i--) array.push(value(depth + 1));
      if (plain) return array;
      if (random() < 0.2) array[array.length + below(20)] = value(depth + 1);
      if (random() < 0.1) array.length += below(3);
      if (random() < 0.1) array[pick(["x", "-1", "é"])] = value(depth + 1);
      return array;
    }
    case 17: return keep(Uint8Array.from({ length: below(5) }, () => below(256)).buffer);
    default: {
      const object: any = keep({});
      for (let i = below(5); i > 0; i--) {
        const key = random() < 0.3 ? String(below(5)) : plain ? pick(["a", "k", "日"]) : pick([...TEXTS, "k", "key"]);
        Object.defineProperty(object, key, { value: value(depth + 1), enumerable: true, writable: true, configurable: true });
      }
      return object;
    }
  }
}

function keep<T>(made: T): T {
  seen.push(made);
  return made;
}

for (let count = Number(process.argv[3]); count > 0; count--) {
  seen.length = 0;
  plain = random() < 0.5;
  const stored = v8.serialize(value(0));
  console.log(JSON.stringify({ stored: stored.toString("hex"), ...encodeValue(v8.deserialize(stored)) }));
}
