/** `ctx` of a Worker or of a Durable Object, where `exports` depends on the compatibility date. */
interface Context {
  exports?: Record<string, unknown>;
}

export type Namespace = DurableObjectNamespace;

/** How classes are found where `ctx.exports` does not exist (compatibility dates before 2025-11-17). */
export interface NamespaceOptions {
  /** The binding of `DurafetchDirectory`. Default: `DURAFETCH_DIRECTORY`. */
  directory?: string;
  /** Exported class name to the name of its Durable Object binding. */
  classes?: Record<string, string>;
}

export const DIRECTORY_CLASS = "DurafetchDirectory";
const DIRECTORY_BINDING = "DURAFETCH_DIRECTORY";

/**
 * The Durable Object namespaces of this Worker by class name. Entries of `ctx.exports` that are not namespaces are
 * stubs that answer any property, so each candidate has to prove itself by what it makes.
 */
export function namespaces(ctx: Context, env: unknown, options: NamespaceOptions): Map<string, Namespace> {
  const found = new Map<string, Namespace>();
  for (const [name, candidate] of Object.entries(ctx.exports ?? {})) {
    if (isNamespace(candidate)) found.set(name, candidate);
  }
  for (const [name, binding] of Object.entries(options.classes ?? {})) {
    const candidate = bindings(env)[binding];
    if (!found.has(name) && isNamespace(candidate)) found.set(name, candidate);
  }
  const directory = bindings(env)[options.directory ?? DIRECTORY_BINDING];
  if (!found.has(DIRECTORY_CLASS) && isNamespace(directory)) found.set(DIRECTORY_CLASS, directory);
  return found;
}

/** The class to which an id belongs: the one whose namespace accepts it. */
export function classOf(id: string, known: Map<string, Namespace>): string | undefined {
  for (const [name, namespace] of known) {
    try {
      if (namespace.idFromString(id).toString() === id) return name;
    } catch {
      // an id of another class
    }
  }
  return undefined;
}

/** The directory's shard for an id, out of `shards(env)`. */
export function directoryShard(namespace: Namespace, shard: number): DurableObjectStub {
  return namespace.get(namespace.idFromName(String(shard)));
}

/** Into how many objects the directory is split: the variable `DURAFETCH_SHARDS`, 1 to 256. */
export function shards(env: unknown): number {
  const value = Number(bindings(env).DURAFETCH_SHARDS ?? 1);
  return Number.isInteger(value) && value >= 1 && value <= 256 ? value : 1;
}

function bindings(env: unknown): Record<string, unknown> {
  return (env ?? {}) as Record<string, unknown>;
}

function isNamespace(candidate: unknown): candidate is Namespace {
  if ((typeof candidate !== "object" && typeof candidate !== "function") || candidate === null) return false;
  try {
    return /^[0-9a-f]{64}$/.test(String((candidate as Namespace).idFromName("")));
  } catch {
    return false;
  }
}
