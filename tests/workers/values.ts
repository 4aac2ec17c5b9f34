/** Values that Durable Object storage takes, by name: each type of the structured clone algorithm, and odd ones. */
const shared = { a: 1 };
const cycle: any = { name: "ouroboros" };
cycle.self = cycle;
const withProperties: any = [1, 2];
withProperties.extra = "property";
const error = new TypeError("broken", { cause: { code: 7 } });
const nested: any = [];
let inner = nested;
for (let i = 0; i < 700; i++) inner = inner[0] = [];
const buffer = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]).buffer;

/** Storage takes it, and then cannot give it back. */
export const UNREADABLE = () => new SharedArrayBuffer(3);

export const VALUES = {
  null: () => null,
  undefined: () => undefined,
  true: () => true,
  zero: () => 0,
  negativeZero: () => -0,
  nan: () => Number.NaN,
  infinity: () => Number.POSITIVE_INFINITY,
  negativeInfinity: () => Number.NEGATIVE_INFINITY,
  large: () => 2 ** 53 + 2,
  tiny: () => 5e-324,
  real: () => 0.1 + 0.2,
  bigint: () => 2n ** 70n,
  smallBigint: () => -5n,
  string: () => 'é "quotes" \\ \u2028 😀',
  empty: () => "",
  nul: () => "a\0b",
  lone: () => "x\ud800y",
  latin1: () => "naïve",
  object: () => ({ email: "ann@example.com", tags: ["a", "b"], nested: { deep: { er: null } } }),
  withDate: () => ({ email: "ann@example.com", at: new Date(1700000000123) }),
  badDate: () => new Date(Number.NaN),
  undefinedIn: () => ({ a: undefined, b: [undefined, 1] }),
  sparse: () => {
    const array: any[] = [1];
    array[5] = 2;
    return array;
  },
  verySparse: () => {
    const array: any[] = [];
    array[4_000_000_000] = "far";
    return array;
  },
  withProperties: () => withProperties,
  map: () => new Map<any, any>([["a", 1], ["b", new Date(0)]]),
  mapOddKeys: () => new Map<any, any>([[1, "one"], [{ k: 1 }, "object"], ["s", new Set([1, "2"])]]),
  set: () => new Set([1, "two", { three: 3 }]),
  regexp: () => /a+\/b/giu,
  boxedNumber: () => Object(5),
  boxedString: () => Object("s"),
  boxedBoolean: () => Object(false),
  boxedBigint: () => Object(9n),
  error: () => error,
  rangeError: () => new RangeError("out of range"),
  arrayBuffer: () => new Uint8Array([0, 255, 1]).buffer,
  dataView: () => new DataView(buffer, 2, 3),
  uint8: () => new Uint8Array([1, 2, 250]),
  uint8Part: () => new Uint8Array(buffer, 1, 3),
  clamped: () => new Uint8ClampedArray([1, 255]),
  int8: () => new Int8Array([-1, 1]),
  int16: () => new Int16Array([-300, 300]),
  uint16: () => new Uint16Array([65535]),
  int32: () => new Int32Array([-70000]),
  uint32: () => new Uint32Array([4294967295]),
  float32: () => new Float32Array([0.5, Number.NaN]),
  float64: () => new Float64Array([0.1, Number.NEGATIVE_INFINITY]),
  bigint64: () => new BigInt64Array([-(2n ** 63n)]),
  biguint64: () => new BigUint64Array([2n ** 64n - 1n]),
  shared: () => ({ one: shared, two: shared }),
  cycle: () => cycle,
  proto: () => JSON.parse('{"__proto__": {"x": 1}, "y": 2}'),
  deep: () => nested,
  numericKeys: () => ({ 2: "b", 1: "a", "-1": "c" }),
  long: () => "0123456789".repeat(20_000),
};
