import { DurableObject } from "cloudflare:workers";
import { Announcer } from "./announcer.js";
import type { ObjectPull } from "./frames.js";
import { instrument } from "./instrument.js";
import type { NamespaceOptions } from "./namespaces.js";
import { newsUnderway } from "./news.js";
import { pullObject } from "./pull.js";
import { Tracker } from "./tracker.js";
import { registerWrapped } from "./wrapped.js";

/** What `durafetchObject` takes besides the class; only needed where `ctx.exports` does not exist. */
export type DurafetchObjectOptions = NamespaceOptions;

/** The RPC method that `durafetchWorker` calls on a wrapped object. */
export const PULL_METHOD = "__durafetchPull" as const;

// biome-ignore lint/suspicious/noExplicitAny: a class expression's constructor must take any arguments
type AnyClass = new (...args: any[]) => any;

/** Handlers that the runtime looks for on a Durable Object. */
const HANDLERS = ["fetch", "alarm", "webSocketMessage", "webSocketClose", "webSocketError"] as const;

/** What is kept beside an instance, out of the app's sight. */
const instrumented = new WeakMap<object, { ctx: DurableObjectState; tracker: Tracker }>();

/**
 * Makes the state of a Durable Object class readable for Durafetch. The class returned is to be exported in place
 * of the one given, under the name that wrangler's migrations know; it behaves as the one given.
 *
 * Takes any Durable Object class: SQLite-backed or KV-backed, extending `DurableObject`, a framework's subclass of
 * it, or nothing at all.
 */
export function durafetchObject<C extends AnyClass>(Class: C, options: DurafetchObjectOptions = {}): C {
  const Base: AnyClass = Class.prototype instanceof DurableObject ? Class : delegating(Class);
  const Wrapped = class extends Base {
    // biome-ignore lint/suspicious/noExplicitAny: passed on unseen
    constructor(...args: any[]) {
      const ctx = args[0] as DurableObjectState;
      const tracker = new Tracker();
      instrument(ctx.storage, tracker);
      super(...args);
      instrumented.set(this, { ctx, tracker });
      if (Object.hasOwn(this, "alarm")) watchAlarm(this);
      const announcer = new Announcer(ctx, args[1], options);
      tracker.onDirty = () => announcer.announce();
      // After the event that started the object: where that is a pull, there is nothing to announce, or else every
      // sync would make the next one wake the same objects again.
      const come = newsUnderway();
      setTimeout(() => {
        tracker.started();
        come();
      }, 0);
    }
  };
  watchAlarm(Wrapped.prototype);
  registerWrapped(Class.name);
  Object.defineProperty(Wrapped, "name", { value: Class.name, configurable: true });
  Object.defineProperty(Wrapped.prototype, PULL_METHOD, {
    value(this: object, request: ObjectPull) {
      const own = instrumented.get(this);
      if (own === undefined) throw new TypeError("The object was not made by its wrapped class.");
      return pullObject(own.ctx, own.tracker, request);
    },
    configurable: true,
    writable: true,
  });
  return Wrapped as unknown as C;
}

/** The runtime deletes an alarm when it fires, without calling any method of storage. */
function watchAlarm(target: object): void {
  const original = (target as { alarm?: unknown }).alarm;
  if (typeof original !== "function") return;
  Object.defineProperty(target, "alarm", {
    value: async function (this: object, ...args: unknown[]) {
      const tracker = instrumented.get(this)?.tracker;
      tracker?.changed();
      try {
        return await original.apply(this, args);
      } finally {
        tracker?.changed();
      }
    },
    configurable: true,
    enumerable: false,
    writable: true,
  });
}

/** For a class that does not extend `DurableObject`: RPC needs one that does, so this one passes handlers on. */
function delegating(Class: AnyClass): AnyClass {
  return class extends DurableObject {
    // biome-ignore lint/suspicious/noExplicitAny: passed on unseen
    constructor(...args: any[]) {
      super(args[0], args[1]);
      const inner = new Class(...args);
      for (const name of HANDLERS) {
        if (typeof inner[name] !== "function") continue;
        Object.defineProperty(this, name, {
          value: (...handlerArgs: unknown[]) => inner[name](...handlerArgs),
          configurable: true,
          writable: true,
        });
      }
    }
  };
}
