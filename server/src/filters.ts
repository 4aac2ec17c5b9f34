/** Patterns: what is included (everything, where none), less what is excluded. */
export interface Rule {
  include?: string[];
  exclude?: string[];
}

/** Which tables and which entries of an object are asked for. */
export interface Filter {
  tables?: Rule;
  keys?: Rule;
}

const MAX_PATTERNS = 100;

/** A pattern as a regular expression: `*` is any text, `?` any one character, all else itself. */
function compile(pattern: string, ignoreCase: boolean): RegExp {
  const source = pattern.replace(/[\\^$.*+?()[\]{}|]/g, (c) => (c === "*" ? ".*" : c === "?" ? "." : `\\${c}`));
  return new RegExp(`^${source}$`, ignoreCase ? "isu" : "su");
}

/** Whether a text is let through by a rule. */
export function matcher(rule: Rule | undefined, ignoreCase = false): (text: string) => boolean {
  const include = rule?.include?.map((pattern) => compile(pattern, ignoreCase)) ?? [];
  const exclude = rule?.exclude?.map((pattern) => compile(pattern, ignoreCase)) ?? [];
  if (include.length + exclude.length === 0) return () => true;
  return (text) =>
    (include.length === 0 || include.some((pattern) => pattern.test(text))) &&
    !exclude.some((pattern) => pattern.test(text));
}

/** Whether a request's `filter` is one. */
export function validFilter(filter: unknown): filter is Filter {
  if (typeof filter !== "object" || filter === null) return false;
  const { tables, keys } = filter as { tables?: unknown; keys?: unknown };
  return validRule(tables) && validRule(keys);
}

function validRule(rule: unknown): boolean {
  if (rule === undefined) return true;
  if (typeof rule !== "object" || rule === null) return false;
  const { include = [], exclude = [] } = rule as { include?: unknown; exclude?: unknown };
  return [include, exclude].every(
    (list) =>
      Array.isArray(list) &&
      list.length <= MAX_PATTERNS &&
      list.every((pattern) => typeof pattern === "string" && pattern.isWellFormed()),
  );
}
