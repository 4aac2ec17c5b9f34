// A Worker that does to its objects' storage what a test tells it, step by step. `zoo.ts` is wrapped, `zoo_plain.ts`
// is the same app without Durafetch.
import { DurableObject, WorkerEntrypoint } from "cloudflare:workers";
import { MORE_VALUES, OPAQUE } from "./more_values.js";
import { UNREADABLE, VALUES } from "./values.js";

export type Step = [action: string, ...args: any[]];

function value(spec: any): any {
  if (spec === "$unreadable") return UNREADABLE();
  return typeof spec === "string" && spec.startsWith("$") ? ({ ...VALUES, ...MORE_VALUES, ...OPAQUE } as any)[spec.slice(1)]() : spec;
}

function cell(spec: any): any {
  if (spec && typeof spec === "object") {
    if ("hex" in spec) return Uint8Array.from((spec.hex as string).match(/../g) ?? [], (h) => Number.parseInt(h, 16));
    if ("real" in spec) return Number(spec.real);
  }
  return spec;
}

const jsonable = (_: string, v: any) =>
  typeof v === "bigint" ? `${v}n` : v instanceof Map ? [...v] : v instanceof ArrayBuffer ? [...new Uint8Array(v)] : v;

async function step(ctx: DurableObjectState, storage: any, [action, ...args]: Step): Promise<any> {
  switch (action) {
    case "sql": {
      const cursor = ctx.storage.sql.exec(args[0], ...args.slice(1).map(cell));
      const rows = [...cursor.raw()];
      return { rows, rowsWritten: cursor.rowsWritten };
    }
    case "put":
      return args.length === 1
        ? storage.put(Object.fromEntries(Object.entries(args[0]).map(([k, v]) => [k, value(v)])))
        : storage.put(args[0], value(args[1]));
    case "get":
      return storage.get(args[0]);
    case "delete":
      return storage.delete(args[0]);
    case "deleteAll":
      return ctx.storage.deleteAll();
    case "kv.put":
      return ctx.storage.kv.put(args[0], value(args[1]));
    case "kv.delete":
      return ctx.storage.kv.delete(args[0]);
    case "many": // args: count, value length, prefix
      for (let i = 0; i < args[0]; i++) storage.put(`${args[2] ?? "k"}${String(i).padStart(6, "0")}`, "x".repeat(args[1]) + i);
      return null;
    case "setAlarm":
      return storage.setAlarm(args[0]);
    case "deleteAlarm":
      return storage.deleteAlarm();
    case "getAlarm":
      return ctx.storage.getAlarm();
    case "sync":
      return ctx.storage.sync();
    case "transaction": // args: steps, ending
      return ctx.storage.transaction(async (txn) => {
        for (const each of args[0]) await step(ctx, txn, each);
        if (args[1] === "wait") await scheduler.wait(300);
        if (args[1] === "rollback") txn.rollback();
        if (args[1] === "throw") throw new Error("thrown in a transaction");
        return "committed";
      });
    case "transactionSync":
      return ctx.storage.transactionSync(() => {
        for (const each of args[0]) ctx.storage.sql.exec(each[1], ...each.slice(2).map(cell)).toArray();
        if (args[1] === "throw") throw new Error("thrown in transactionSync");
        return "committed";
      });
    case "wait":
      return scheduler.wait(args[0]);
    case "burst": { // args: objects, writes: other objects, each written to several times
      const { Zoo } = (ctx as any).exports;
      await Promise.all(
        Array.from({ length: args[0] }, (_, n) =>
          Zoo.getByName(`burst${n}`).run(Array.from({ length: args[1] }, (_, w) => ["put", "k", w + 5])),
        ),
      );
      return null;
    }
    case "turn": { // args: objects, how many of them write once, the number of the first write
      const { Zoo } = (ctx as any).exports;
      await Promise.all(
        Array.from({ length: args[1] }, (_, n) =>
          Zoo.getByName(`burst${(args[2] + n) % args[0]}`).run([["put", `k${(args[2] + n) % 7}`, args[2] + n]]),
        ),
      );
      return null;
    }
    case "rows": { // args: table, count: many rows by one statement
      ctx.storage.sql.exec(
        `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         INSERT INTO ${args[0]} SELECT i, 'row ' || i, i * 0.5, i % 7, NULL FROM n`,
        args[1],
      );
      return null;
    }
    case "hammer": { // args: milliseconds: two rows that always sum to zero, in SQL and in entries
      const until = Date.now() + args[0];
      let n = 0;
      while (Date.now() < until) {
        n++;
        const amount = (n * 7919) % 1000;
        await ctx.storage.transaction(async (txn) => {
          if (args[1] !== "kv") {
            ctx.storage.sql.exec("UPDATE pair SET amount = ? WHERE id = 1", amount);
            await txn.put("left", amount);
            await scheduler.wait(0);
            ctx.storage.sql.exec("UPDATE pair SET amount = ? WHERE id = 2", -amount);
          } else {
            await txn.put("left", amount);
            await scheduler.wait(0);
          }
          await txn.put("right", -amount);
        });
        await scheduler.wait(0);
      }
      return n;
    }
    default:
      throw new Error(`no action ${action}`);
  }
}

async function run(ctx: DurableObjectState, steps: Step[]): Promise<string> {
  const results = [];
  for (const each of steps) {
    try {
      results.push(await step(ctx, ctx.storage, each));
    } catch (error) {
      results.push({ error: String(error) });
    }
  }
  return JSON.stringify(results, jsonable);
}

export class ZooBase extends DurableObject {
  run(steps: Step[]): Promise<string> {
    return run(this.ctx, steps);
  }
  override async alarm(): Promise<void> {
    this.ctx.storage.kv.put("alarm", "rang");
  }
}

/** Writes in its constructor, within blockConcurrencyWhile. */
export class EagerBase extends DurableObject {
  constructor(ctx: DurableObjectState, env: any) {
    super(ctx, env);
    void ctx.blockConcurrencyWhile(async () => {
      ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS born(at INTEGER)");
      if (ctx.storage.sql.exec("SELECT count(*) AS n FROM born").one().n === 0) {
        ctx.storage.sql.exec("INSERT INTO born VALUES (1)");
        await ctx.storage.put("born", true);
      }
    });
  }
  run(steps: Step[]): Promise<string> {
    return run(this.ctx, steps);
  }
}

/** KV-backed, and from before classes extended DurableObject. */
export class OldBase {
  constructor(private readonly state: DurableObjectState) {}
  async fetch(request: Request): Promise<Response> {
    return new Response(await run(this.state, await request.json()));
  }
  async alarm(): Promise<void> {
    await this.state.storage.put("alarm", "rang");
  }
}

/** Not wrapped even where the others are. */
export class Bare extends DurableObject {
  run(steps: Step[]): Promise<string> {
    return run(this.ctx, steps);
  }
}

export class Broken extends DurableObject {
  constructor(ctx: DurableObjectState, env: any) {
    super(ctx, env);
    if (env.BROKEN) throw new Error("broken on purpose");
  }
  run(steps: Step[]): Promise<string> {
    return run(this.ctx, steps);
  }
}

export class App extends WorkerEntrypoint<any> {
  override async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname !== "/run") return new Response(`app ${request.method} ${url.pathname}`);
    const { cls, name, id, steps } = await request.json<any>();
    const namespace = (this.ctx as any).exports[cls];
    const objectId = id === undefined ? (name === undefined ? namespace.newUniqueId() : namespace.idFromName(name)) : namespace.idFromString(id);
    const stub = namespace.get(objectId);
    const body = cls === "Old" ? await (await stub.fetch("http://old/", { method: "POST", body: JSON.stringify(steps) })).text() : await stub.run(steps);
    return new Response(body, { headers: { "X-Object-Id": objectId.toString() } });
  }
}
