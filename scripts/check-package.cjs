"use strict";
// Packs the package, installs the tarball into an empty folder where no compiler is on the PATH, and runs a small program that
// generates text with the prebuilt binary. Needs prebuilds/ (npm run make-prebuilds).
const { execFileSync } = require("node:child_process");
const {
  mkdtempSync,
  mkdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const folder = mkdtempSync(path.join(os.tmpdir(), "pagoda-package-"));

const program = `import { createEngine } from "pagoda-llm";
import { BlockPool } from "pagoda-llm/core";
import { flashAttention } from "pagoda-llm/kernels";
import { toNodeHandler } from "pagoda-llm/openai";

await using engine = await createEngine({ model: process.argv[2] });
let text = "";
for await (const delta of engine.generate({ prompt: "Once upon a time", maxTokens: 24, temperature: 0 })) text += delta.text;
const [query, key, value] = [1, 2, 3].map((x) => new Float32Array(4).fill(x));
const out = await flashAttention({ query, key, value, numHeads: 1, numKvHeads: 1, headDim: 4 });
if (out.join() !== "3,3,3,3") throw new Error("Attention to one value is that value");
if (text.length < 10 || !BlockPool || !toNodeHandler) throw new Error("No text was generated");
console.log(JSON.stringify({ text, isa: engine.info.device.isa }));
`;
// Node 20 has no \`await using\`; the program is what a TypeScript user would write, lowered by hand.
const lowered = program
  .replace("await using engine", "const engine")
  .replace(/$/, "await engine.close();\n");

/** A PATH that holds nothing but node, npm and sh. */
function barePath() {
  const bin = path.join(folder, "bin");
  mkdirSync(bin);
  const npm = realpathSync(
    execFileSync("sh", ["-c", "command -v npm"], { encoding: "utf8" }).trim(),
  );
  symlinkSync(process.execPath, path.join(bin, "node"));
  symlinkSync(npm, path.join(bin, "npm"));
  symlinkSync(realpathSync("/bin/sh"), path.join(bin, "sh"));
  return bin;
}

function run(command, args, options = {}) {
  return execFileSync(command, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    ...options,
  });
}

try {
  const packed = JSON.parse(
    run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: root }),
  );
  const tarball = path.join(folder, packed[0].filename);
  const app = path.join(folder, "app");
  mkdirSync(app);
  writeFileSync(
    path.join(app, "package.json"),
    JSON.stringify({ name: "app", private: true, type: "module" }),
  );
  writeFileSync(path.join(app, "main.mjs"), lowered);
  const env = { ...process.env, PATH: barePath() };
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", tarball], {
    cwd: app,
    env,
  });
  const output = run(process.execPath, ["main.mjs", path.join(root, "models", "demo")], {
    cwd: app,
    env,
  });
  console.log(
    `${packed[0].filename}: ${(packed[0].size / 1e6).toFixed(2)} MB packed, installed without a compiler`,
  );
  console.log(output.trim());
} finally {
  rmSync(folder, { recursive: true, force: true });
}
