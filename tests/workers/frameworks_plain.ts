export { CountAgentBase as CountAgent, handler as default, PartyBase as Party } from "./frameworks.js";
