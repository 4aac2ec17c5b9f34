import { durafetchObject, durafetchWorker } from "durafetch-server";
import { App, Broken as BrokenBase, EagerBase, OldBase, ZooBase } from "./zoo.js";

export { DurafetchDirectory } from "durafetch-server";
export { Bare } from "./zoo.js";
export const Zoo = durafetchObject(ZooBase);
export const Eager = durafetchObject(EagerBase);
export const Old = durafetchObject(OldBase);
export const Broken = durafetchObject(BrokenBase);
export default durafetchWorker(App);
