/** Values that are rarer still: every kind of error, of array, of number and of key, and what workerd writes itself. */
class Plain {
  a = 1;
}
const named: any = new Error("m");
named.name = "Custom";
named.code = 42;
class Extended extends Error {
  extra = 1;
}
const oddStack: any = new Error("m");
oddStack.stack = 5;
const repeated = new Error("x");
const self = new Set();
self.add(self);
const selfMap = new Map();
selfMap.set(selfMap, selfMap);
const shortened = [1];
shortened.length = 3;
const emptied = [1, 2, 3];
delete emptied[1];
const withProperties: any = [1, , 2];
withProperties.x = 1;
withProperties["-1"] = 2;
const resizable = () => new (ArrayBuffer as any)(4, { maxByteLength: 16 });
const eight = new ArrayBuffer(8);

export const MORE_VALUES = {
  err: () => new Error("m"),
  evalError: () => new EvalError("m"),
  referenceError: () => new ReferenceError("m"),
  syntaxError: () => new SyntaxError("m"),
  uriError: () => new URIError("m"),
  aggregate: () => new AggregateError([new Error("a"), 1], "m"),
  named: () => named,
  extended: () => new Extended("m"),
  noMessage: () => new Error(),
  oddStack: () => oddStack,
  errorTwice: () => ({ e: repeated, again: repeated, after: { z: 1 }, back: repeated }),
  domException: () => new DOMException("m", "AbortError"),
  instance: () => new Plain(),
  resizable,
  resizableView: () => new Uint8Array(resizable()),
  float16: () => new (globalThis as any).Float16Array([1.5]),
  viewsOfOne: () => [new Uint8Array(eight), new Uint16Array(eight, 2, 1), eight],
  dates: () => [new Date("2300-01-01"), new Date(8.64e15), new Date(-1e14), new Date(1.5), new Date(-62167219200001)],
  keys: () => ({ "": 1, "a b": 2, "4294967294": 3, "4294967295": 4, "-0": 5, "01": 6, 日本: 7, "x\ud800": 8 }),
  twoByteAfterKeys: () => ({ a: "日本", ab: "日本", abc: "日本", abcd: ["日", "本", "日本"], 日: 1 }),
  holes: () => [1, , 3],
  shortened: () => shortened,
  emptied: () => emptied,
  undefinedItems: () => [undefined, null],
  holesAndProperties: () => withProperties,
  doubles: () => [1.5, 2.5, Number.NaN, -0],
  holeyDoubles: () => [1.5, , 2.5],
  mixed: () => [1, 1.5, "a", null, true],
  nullPrototype: () => Object.assign(Object.create(null), { a: 1 }),
  getter: () => ({
    get a() {
      return 1;
    },
  }),
  bigints: () => [-(2n ** 64n), 0n, -1n, 2n ** 200n],
  controls: () => "é\0\u001f\u007f\u0080ÿ",
  markup: () => ["</script>", "\u2028\u2029", "\\\"\b\f\n\r\t", new Date(0)],
  numbers: () => [
    1e21, 1e20, 123456789012345680000, 1e-6, 1e-7, 2 ** 53, 2 ** 60, 1.5e300, 5e-324, 0.00001, 123456.789e3, 1e16,
    1234567890123456789, 0.1, 1 / 3, -1e-10, 4294967296, -2147483649, 2147483648,
  ],
  equals: () => ["a", "a", 1, 1, new Date(0), new Date(0), 10n, 10n, true, true, null, null, "1", 1n],
  regexps: () => [/a/, /b/dgimsuy, /c/v, /\//, new RegExp("")],
  empties: () => [new Map(), new Set(), {}, []],
  setOfItself: () => self,
  mapOfItself: () => selfMap,
  emptyView: () => new Uint8Array(0),
  boxed: () => ({ n: Object(Number.NaN), z: Object(-0), s: Object("é日"), t: Object(true) }),
  nested: () => new Map([["a", new Map([["b", new Set([[1, { c: new Date(0) }]])]])]]),
};

/** What workerd can store and read, but the server functions cannot: their bytes are read asynchronously. */
export const OPAQUE = {
  blob: () => new Blob(["abc"]),
  headers: () => new Headers({ a: "b" }),
  request: () => new Request("http://x/"),
};
