"use strict";
// Installs the package of the CUDA plug-in beside pagoda-llm into an empty folder and runs an engine there. Where no GPU can be
// used, the plug-in must say why. Needs prebuilds/.
//
//   node scripts/check-cuda-package.cjs FOLDER      as make-cuda-package.cjs makes it
const { readFileSync, writeFileSync } = require("node:fs");
const path = require("node:path");
const { PackedApp } = require("./packed-app.cjs");

const root = path.resolve(__dirname, "..");
const name = "pagoda-llm-cuda-linux-x64";

const program = `import { createEngine, listDevices } from "pagoda-llm";

const options = { kvCache: { numBlocks: 8 }, scheduler: { maxBatchTokens: 8 } };
const engine = await createEngine({ model: process.argv[2], device: "auto", ...options });
const { tokenIds } = await engine.generate({ prompt: [5, 6, 7], maxTokens: 2, temperature: 0 });
const { device, passedOver } = engine.info;
await engine.close();
console.log(JSON.stringify({ backend: device.backend, passedOver, tokenIds, devices: await listDevices() }));
`;

/** "cuda" where it works, else why it does not. */
function outcome(app) {
  const { backend, passedOver, devices } = JSON.parse(
    app.run(program, [path.join(root, "models", "demo")]),
  );
  const report = devices.find(({ device }) => device.startsWith("cuda"));
  const result = backend === "cuda" ? "cuda" : passedOver[0].reason;
  if (result !== "cuda" && report.reason !== result) throw new Error("Two reasons for one thing");
  return result;
}

function expect(result, pattern) {
  if (!pattern.test(result)) throw new Error(`Expected ${pattern} but received: ${result}`);
  console.log(`${name}: ${result}`);
}

const folder = path.resolve(process.argv[2]);
const app = new PackedApp();
try {
  app.install(root);
  expect(outcome(app), /is not installed$/);
  const [{ filename, size }] = app.install(folder);
  console.log(`${filename}: ${(size / 1e6).toFixed(2)} MB packed`);
  expect(outcome(app), /^cuda$|NVIDIA|GPU/);
  const installed = path.join(app.app, "node_modules", name, "package.json");
  const manifest = JSON.parse(readFileSync(installed, "utf8"));
  writeFileSync(installed, JSON.stringify({ ...manifest, version: "99.0.0" }));
  expect(outcome(app), /has version 99\.0\.0, and .* is needed$/);
} finally {
  app.remove();
}
