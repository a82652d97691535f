"use strict";
// Packs the package, installs the tarball into an empty folder where no compiler is on the PATH, and runs a small program that
// generates text with the prebuilt binary. Needs prebuilds/ (npm run make-prebuilds).
const path = require("node:path");
const { PackedApp } = require("./packed-app.cjs");

const root = path.resolve(__dirname, "..");

// Node 20 has no `await using`: what a TypeScript user would write, lowered by hand.
const program = `import { createEngine } from "pagoda-llm";
import { BlockPool } from "pagoda-llm/core";
import { flashAttention } from "pagoda-llm/kernels";
import { toNodeHandler } from "pagoda-llm/openai";

const engine = await createEngine({ model: process.argv[2] });
let text = "";
for await (const delta of engine.generate({ prompt: "Once upon a time", maxTokens: 24, temperature: 0 })) text += delta.text;
const [query, key, value] = [1, 2, 3].map((x) => new Float32Array(4).fill(x));
const out = await flashAttention({ query, key, value, numHeads: 1, numKvHeads: 1, headDim: 4 });
if (out.join() !== "3,3,3,3") throw new Error("Attention to one value is that value");
if (text.length < 10 || !BlockPool || !toNodeHandler) throw new Error("No text was generated");
console.log(JSON.stringify({ text, isa: engine.info.device.isa }));
await engine.close();
`;

const app = new PackedApp();
try {
  const [{ filename, size }] = app.install(root);
  const megabytes = (size / 1e6).toFixed(2);
  console.log(`${filename}: ${megabytes} MB packed, installed without a compiler`);
  console.log(app.run(program, [path.join(root, "models", "demo")]));
} finally {
  app.remove();
}
