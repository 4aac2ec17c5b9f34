// The zoo, with a directory far away: an announcement takes its time.
import { DurafetchDirectory as Directory } from "durafetch-server";

export class DurafetchDirectory extends Directory {
  override async announce(className: string, id: string, name: string | null): Promise<void> {
    await scheduler.wait(150);
    super.announce(className, id, name);
  }
}
export { Bare, Broken, default, Eager, Old, Zoo } from "./zoo_wrapped.js";
