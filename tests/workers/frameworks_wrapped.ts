import { durafetchObject, durafetchWorker } from "durafetch-server";
import { CountAgentBase, handler, PartyBase } from "./frameworks.js";

export { DurafetchDirectory } from "durafetch-server";
export const Party = durafetchObject(PartyBase);
export const CountAgent = durafetchObject(CountAgentBase);
export default durafetchWorker(handler);
