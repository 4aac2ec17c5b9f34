/** A counter, written as classes were before `DurableObject` could be extended, on the KV backend of that time. */
export class Counter {
  constructor(private readonly state: DurableObjectState) {}

  async fetch(): Promise<Response> {
    const value = ((await this.state.storage.get<number>("value")) ?? 0) + 1;
    await this.state.storage.put({ value, seen: new Date() });
    return Response.json({ value });
  }
}
