export { DurafetchDirectory } from "./directory.js";
export { type DurafetchObjectOptions, durafetchObject } from "./object.js";
export { type DurafetchWorkerOptions, durafetchWorker } from "./worker.js";
