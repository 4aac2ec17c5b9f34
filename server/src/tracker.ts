/** The largest number of written keys that an object remembers; past it, every chunk of its entries is read. */
const MAX_TRACKED_KEYS = 10_000;

/** A word that a statement which changes anything must contain. A statement without any of them only reads. */
const WRITE_WORD = /\b(?:insert|update|delete|replace|create|drop|alter|analyze|reindex|vacuum|pragma)\b/i;

/** Whether the SQL text may change rows or the schema; never says no to one that does. */
export function mayWrite(sql: string): boolean {
  return WRITE_WORD.test(sql);
}

/**
 * What an object knows of its own changes, in memory alone. Every write counts one up in `mutations`; a version is
 * `epoch.mutations.total_changes.schema` and two equal versions mean equal contents.
 *
 * `total_changes()` by itself is not enough: it does not move for DDL (a dropped and recreated table) nor, at once,
 * for alarms, and a KV-backed class has none.
 */
export class Tracker {
  epoch = newEpoch();
  mutations = 0;
  /** The value of `mutations` at the last write by SQL. */
  lastSqlWrite = 0;
  /** The value of `mutations` at the last write of an entry. */
  lastKvWrite = 0;
  /** Called when the object goes from clean to dirty. */
  onDirty: () => void = () => {};

  #keys = new Map<string, number>();
  /** Keys written at or before this value of `mutations` are not all remembered. */
  #keysSince = 0;
  #dirty = true;
  #startAnnounced = false;
  #open = new Set<Promise<unknown>>();

  #wrote(): number {
    this.mutations += 1;
    if (!this.#dirty) {
      this.#dirty = true;
      this.onDirty();
    }
    return this.mutations;
  }

  /** Something besides entries and rows may have changed (an alarm). */
  changed(): void {
    this.#wrote();
  }

  sqlChanged(): void {
    this.lastSqlWrite = this.#wrote();
  }

  kvChanged(keys: Iterable<string>): void {
    this.lastKvWrite = this.#wrote();
    for (const key of keys) this.#keys.set(key, this.mutations);
    if (this.#keys.size > MAX_TRACKED_KEYS) {
      this.#keys.clear();
      this.#keysSince = this.mutations;
    }
  }

  /** `deleteAll()` resets `total_changes()`, so versions begin anew. */
  cleared(): void {
    this.epoch = newEpoch();
    this.#keys.clear();
    this.lastSqlWrite = this.lastKvWrite = this.#keysSince = this.#wrote();
  }

  /** The keys written after `mutations` was `since`; undefined where they are not all known. */
  keysSince(since: number): string[] | undefined {
    if (since < this.#keysSince) return undefined;
    const keys: string[] = [];
    for (const [key, at] of this.#keys) if (at > since) keys.push(key);
    return keys;
  }

  /** The object has started; announced once, unless a pull came first and showed that nothing changed. */
  started(): void {
    if (this.#startAnnounced) return;
    this.#startAnnounced = true;
    this.onDirty();
  }

  /** A pull is reading the object: the next write is news again. `changed`: its start wrote something. */
  read(changed: boolean): void {
    if (changed) this.started();
    this.#startAnnounced = true;
    this.#dirty = false;
  }

  /** A transaction is open until `done` settles; what it wrote is nobody's business before that. */
  transaction(done: Promise<unknown>): void {
    this.#open.add(done);
    const closed = () => void this.#open.delete(done);
    done.then(closed, closed);
  }

  get inTransaction(): boolean {
    return this.#open.size > 0;
  }

  /** Resolves when no transaction is open. */
  async settled(): Promise<void> {
    while (this.#open.size > 0) await Promise.allSettled(this.#open);
  }
}

function newEpoch(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
