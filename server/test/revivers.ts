/** How devalue reads the custom types that `encodeValue` writes of values that JSON text can make. */
export const REVIVERS = {
  Entries: (entries: [string, unknown][]) => {
    const made = {};
    for (const [key, value] of entries) Object.defineProperty(made, key, { value, enumerable: true });
    return made;
  },
};
