// esbuild with the same arguments as its command line, but for the server functions' sources, whose branches count
// how often they are run. They are read at /__durafetch/v1/coverage, which is nowhere else.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const server = fileURLToPath(new URL("../server/", import.meta.url));
const require = createRequire(`${server}package.json`);
const { build } = require("esbuild");
const { createInstrumenter } = require("istanbul-lib-instrument");

const instrumenter = createInstrumenter({ esModules: true, parserPlugins: ["typescript", "importMeta"], compact: false });
const counters = {
  name: "counters",
  setup(builder) {
    builder.onLoad({ filter: /\/server\/src\/.*\.ts$/ }, async ({ path }) => {
      let source = await readFile(path, "utf8");
      const name = path.slice(server.length);
      if (name === "src/worker.ts") {
        source += `
/* istanbul ignore next */
CALLS["v1/coverage"] = { method: "GET", answer: async () => Response.json((globalThis as any).__coverage__ ?? {}) };`;
      }
      return { contents: instrumenter.instrumentSync(source, name), loader: "ts" };
    });
  },
};

const nodePaths = (process.env.NODE_PATH ?? "").split(":").filter(Boolean);
const options = { nodePaths, entryPoints: [], plugins: [counters], alias: {}, external: [], banner: {}, define: {} };
const names = { mainFields: (v) => v.split(","), conditions: (v) => v.split(","), bundle: () => true };
for (const argument of process.argv.slice(2)) {
  const [, key, value = ""] = /^--([^=]+)(?:=(.*))?$/s.exec(argument) ?? [];
  if (key === undefined) options.entryPoints.push(argument);
  else if (key.startsWith("external:")) options.external.push(key.slice(9));
  else if (key.startsWith("alias:") || key.startsWith("banner:")) {
    const [what, name] = [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)];
    options[what][name] = value;
  } else {
    const camel = key.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
    options[camel] = (names[camel] ?? ((v) => v))(value);
  }
}
await build(options);
