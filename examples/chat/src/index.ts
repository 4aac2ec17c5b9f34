import { durafetchObject, durafetchWorker } from "durafetch-server";
import { Cart as CartBase, type Item } from "./cart.js";
import { Counter as CounterBase } from "./counter.js";
import { Room as RoomBase } from "./room.js";

export { DurafetchDirectory } from "durafetch-server";
export const Room = durafetchObject(RoomBase);
export const Cart = durafetchObject(CartBase);
export const Counter = durafetchObject(CounterBase);

declare global {
  interface Env {
    ROOMS: DurableObjectNamespace<RoomBase>;
    CARTS: DurableObjectNamespace<CartBase>;
    COUNTERS: DurableObjectNamespace;
  }
}

const PLANS = ["free", "pro", "team"];
const AUTHORS = ["ann", "bob", "cleo", "dan", "eve"];

async function handle(request: Request, env: Env): Promise<Response> {
  const url = new URL(request.url);
  const [collection, name = "", action] = url.pathname.slice(1).split("/").map(decodeURIComponent);
  const call = `${request.method} ${collection}${action === undefined ? "" : `/${action}`}`;
  const room = () => env.ROOMS.getByName(name);
  switch (call) {
    case "POST rooms/messages": {
      const { author, text } = await request.json<{ author: string; text: string }>();
      return Response.json(await room().post(author, text));
    }
    case "GET rooms/messages":
      return Response.json(await room().latest());
    case "GET rooms/socket":
      return room().fetch(request);
    case "POST carts":
      return Response.json({ id: await openCart(env, Number(url.searchParams.get("n") ?? 1)) });
    case "POST carts/items":
      return Response.json({ total: await env.CARTS.get(env.CARTS.idFromString(name)).add(await request.json<Item>()) });
    case "POST carts/checkout":
      await env.CARTS.get(env.CARTS.idFromString(name)).checkout();
      return new Response(null, { status: 204 });
    case "POST counters":
      return env.COUNTERS.get(env.COUNTERS.idFromName(name)).fetch("http://counter/");
    case "POST traffic":
      return Response.json(await traffic(env, url.searchParams));
    default:
      return new Response("The chat example. See examples/chat/README.md.\n", { status: call === "GET " ? 200 : 404 });
  }
}

function openCart(env: Env, n: number): Promise<string> {
  const cart = env.CARTS.get(env.CARTS.newUniqueId());
  return cart.open(`customer${n}@example.com`, PLANS[n % PLANS.length] as string);
}

async function traffic(env: Env, parameters: URLSearchParams): Promise<Record<string, number>> {
  const count = (name: string, otherwise: number) =>
    Math.min(1000, Math.max(0, Number(parameters.get(name) ?? otherwise) || 0));
  const rooms = count("rooms", 40);
  const carts = count("carts", 40);
  const counters = count("counters", 20);
  const messages = count("messages", 3);
  const work: Promise<unknown>[] = [];
  for (let r = 0; r < rooms; r++) {
    const room = env.ROOMS.getByName(`room-${r}`);
    for (let m = 0; m < messages; m++) work.push(room.post(AUTHORS[(r + m) % AUTHORS.length] as string, `hello ${m}`));
  }
  for (let c = 0; c < carts; c++) {
    work.push(
      openCart(env, c).then((id) =>
        env.CARTS.get(env.CARTS.idFromString(id)).add({ sku: `sku-${c % 7}`, price: 5 + (c % 7), quantity: 1 + (c % 3) }),
      ),
    );
  }
  for (let c = 0; c < counters; c++) {
    work.push(env.COUNTERS.get(env.COUNTERS.idFromName(`counter-${c}`)).fetch("http://counter/"));
  }
  await Promise.all(work);
  return { rooms, carts, counters, messages };
}

export default durafetchWorker({ fetch: handle }, { name: "chat" });
