import { DurableObject } from "cloudflare:workers";

export interface Item {
  sku: string;
  price: number;
  quantity: number;
}

/** A shopping cart, kept in entries: a profile with dates, a map of coupons, one entry for each item. */
export class Cart extends DurableObject<Env> {
  async open(email: string, plan: string): Promise<string> {
    await this.ctx.storage.put({
      profile: { email, plan, address: { city: "Lisbon", zip: "1100" }, opened: new Date() },
      coupons: new Map([["WELCOME", { percent: 10, until: new Date(Date.UTC(2030, 0, 1)) }]]),
      status: "open",
    });
    return this.ctx.id.toString();
  }

  async add(item: Item): Promise<number> {
    const key = `item:${item.sku}`;
    return this.ctx.storage.transaction(async (txn) => {
      const before = await txn.get<Item>(key);
      await txn.put(key, { ...item, quantity: (before?.quantity ?? 0) + item.quantity });
      const total = ((await txn.get<number>("total")) ?? 0) + item.price * item.quantity;
      await txn.put("total", total);
      return total;
    });
  }

  async checkout(): Promise<void> {
    await this.ctx.storage.put("status", "paid");
    await this.ctx.storage.delete("coupons");
  }
}
