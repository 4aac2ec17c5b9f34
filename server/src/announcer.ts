import { classOf, DIRECTORY_CLASS, directoryShard, type NamespaceOptions, namespaces, shards } from "./namespaces.js";
import { newsUnderway } from "./news.js";

const RETRY_DELAYS_MS = [250, 2_000, 10_000];

/** Tells the directory about one object, in the background: the app neither waits for it nor hears of its failure. */
export class Announcer {
  #ctx: DurableObjectState;
  #env: unknown;
  #options: NamespaceOptions;
  #busy = false;
  #again = false;

  constructor(ctx: DurableObjectState, env: unknown, options: NamespaceOptions) {
    this.#ctx = ctx;
    this.#env = env;
    this.#options = options;
  }

  announce(): void {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    this.#ctx.waitUntil(this.#run());
  }

  async #run(): Promise<void> {
    const come = newsUnderway();
    for (let attempt = 0; ; attempt++) {
      this.#again = false;
      try {
        await this.#tell();
        if (!this.#again) break;
        attempt = -1;
      } catch {
        const delay = RETRY_DELAYS_MS[attempt];
        // Given up for now: the next start of the object announces it again, and so does its next first write.
        if (delay === undefined) break;
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
    this.#busy = false;
    come();
  }

  async #tell(): Promise<void> {
    const known = namespaces(this.#ctx as never, this.#env, this.#options);
    const directory = known.get(DIRECTORY_CLASS);
    const id = this.#ctx.id.toString();
    const className = classOf(id, known);
    if (directory === undefined || className === undefined) return;
    const shard = Number.parseInt(id.slice(0, 2), 16) % shards(this.#env);
    const stub = directoryShard(directory, shard) as unknown as {
      announce(className: string, id: string, name: string | null): Promise<void>;
    };
    await stub.announce(className, id, this.#ctx.id.name?.toWellFormed() ?? null);
  }
}
