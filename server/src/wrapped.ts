/** The names that classes had when they were wrapped in this isolate, one for each call; minified, they say little. */
const names: string[] = [];

export function registerWrapped(name: string): void {
  names.push(name);
}

/**
 * Which exported classes are wrapped: true, false, or null where that cannot be told yet. Nothing shows a Worker its
 * own classes, and starting an object just to ask would run the app's constructor. What is known: how many classes
 * were wrapped, what they were called, and which have announced objects (`seen`).
 */
export function wrappedClasses(exported: readonly string[], seen: ReadonlySet<string>): Map<string, boolean | null> {
  const certain = exported.filter(
    (name) =>
      seen.has(name) || names.some((given) => given === name || given === `${name}Base` || given === `_${name}`),
  );
  const others = names.length >= exported.length ? true : certain.length >= names.length ? false : null;
  return new Map(exported.map((name) => [name, certain.includes(name) ? true : others]));
}
