export { App as default, Bare, Broken, EagerBase as Eager, OldBase as Old, ZooBase as Zoo } from "./zoo.js";
