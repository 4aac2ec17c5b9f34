// A Worker of a compatibility date before ctx.exports: everything is found by bindings that the options name.
import { DurableObject } from "cloudflare:workers";
import { durafetchObject, durafetchWorker } from "durafetch-server";

export { DurafetchDirectory } from "durafetch-server";

class NoteBase extends DurableObject {
  async write(text: string) {
    await this.ctx.storage.put("text", text);
  }
}

const options = { classes: { Note: "NOTES" }, directory: "DIRECTORY" };
export const Note = durafetchObject(NoteBase, options);

class App {
  #greeting = "private fields work";
  async fetch(request: Request, env: any) {
    await env.NOTES.get(env.NOTES.idFromName("one")).write(request.url);
    return new Response(this.#greeting);
  }
}

export default durafetchWorker(new App(), options);
