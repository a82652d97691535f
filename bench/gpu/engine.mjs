// Runs the whole engine on a GPU beside the CPU of the same machine, with Node: first the demo models, whose tokens are known,
// then speed with random weights in a real shape. Ends with exit code 1 where tokens are wrong. Needs dist/ and the addon
// (npm run build) and the CUDA plug-in (npm run build:cuda, or PAGODA_CUDA_PLUGIN).
//
//   node bench/gpu/engine.mjs [--device=cuda:0] [--shape=NAME] [--model=DIR] [--enforce-eager] [--no-cpu] [--quick]
//
//   --shape           of bench/make-model.mjs; llama-3.2-1b
//   --model           a model that is there, instead of random weights
//   --enforce-eager   measures without graphs
//   --no-cpu          does not measure the CPU
//   --quick           few tokens and a tiny shape, to see that everything runs, on the emulated plug-in, too
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createEngine } from "../../dist/index.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const greedy = { temperature: 0, repetitionPenalty: 1, ignoreEos: true };

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    shape: { type: "string" },
    model: { type: "string" },
    "enforce-eager": { type: "boolean", default: false },
    "no-cpu": { type: "boolean", default: false },
    quick: { type: "boolean", default: false },
  },
});
const { device, quick } = values;
const sizes = quick
  ? { cases: 2, caseTokens: 6, shape: "tiny", prefill: 48, prompt: 8, outputs: 4, streams: [1, 8] }
  : {
      cases: 8,
      caseTokens: 96,
      shape: "llama-3.2-1b",
      prefill: 4096,
      prompt: 64,
      outputs: 128,
      streams: [1, 8, 32],
    };

/** Runs `use` on an engine that is closed afterwards. */
async function withEngine(options, use) {
  const engine = await createEngine(options);
  try {
    return await use(engine);
  } finally {
    await engine.close();
  }
}

// ---- tokens ---------------------------------------------------------------------------------------------------------

/** Prompts of a demo model and what Hugging Face code writes after them, in the model's own bf16. */
function readCases(name) {
  const file = path.join(root, "test", "fixtures", `${name}-model`, "greedy.json");
  return JSON.parse(readFileSync(file, "utf8")).slice(0, sizes.cases);
}

function generateCases(cases, options) {
  const scheduler = { maxBatchTokens: quick ? 32 : 512, maxSequences: sizes.cases };
  return withEngine({ ...options, scheduler, kvCache: { numBlocks: quick ? 64 : 512 } }, (engine) =>
    Promise.all(
      cases.map(async ({ promptTokenIds: prompt, outputTokenIds }) => {
        const maxTokens = Math.min(outputTokenIds.length, sizes.caseTokens);
        const { tokenIds } = await engine.generate({ prompt, maxTokens, ...greedy });
        return [...tokenIds];
      }),
    ),
  );
}

/** How many token lists begin as others do, and where the first one leaves them. */
function compare(lists, expected) {
  const firstWrong = lists.map((tokens, i) => tokens.findIndex((id, j) => id !== expected[i][j]));
  const wrong = firstWrong.filter((at) => at >= 0);
  const where = wrong.length === 0 ? "" : `, the first difference at token ${Math.min(...wrong)}`;
  return {
    isEqual: wrong.length === 0,
    text: `${lists.length - wrong.length} of ${lists.length}${where}`,
  };
}

/**
 * With f32 weights the GPU computes in f32, as the CPU does. With bf16 it rounds activations, so that a near tie may fall otherwise;
 * but the bits do not depend on whether ops are queued one by one.
 */
async function checkTokens(name) {
  const model = path.join(root, "models", name);
  const cases = readCases(name);
  const expected = cases.map(({ outputTokenIds }) => outputTokenIds);
  const cpu = await generateCases(cases, { model, device: "cpu", dtype: "f32" });
  const exact = compare(await generateCases(cases, { model, device, dtype: "f32" }), cpu);
  const recorded = await generateCases(cases, { model, device });
  const eager = await generateCases(cases, { model, device, enforceEager: true });
  const rounded = compare(recorded, expected);
  const graphs = compare(recorded, eager);
  console.log(`${name}, f32: prompts with the CPU's tokens: ${exact.text}`);
  console.log(`${name}, bf16: prompts with Hugging Face's tokens: ${rounded.text}`);
  console.log(`${name}, bf16: prompts with the tokens of single ops: ${graphs.text}`);
  if (!exact.isEqual || !graphs.isEqual) process.exitCode = 1;
}

// ---- speed ----------------------------------------------------------------------------------------------------------

/** Token ids that no other prompt begins with. */
function promptOf(stream, length, vocabSize) {
  return Array.from({ length }, (_, i) => (7919 * (stream + 1) + 104_729 * i) % vocabSize);
}

/** Runs streams side by side; milliseconds until all have drawn a token, and to the end. */
async function timeStreams(engine, streams, prompt, outputs) {
  engine.resetPrefixCache();
  const { vocabSize } = engine.info.model;
  const start = performance.now();
  let begun = 0;
  let allBegun = 0;
  await Promise.all(
    Array.from({ length: streams }, async (_, stream) => {
      const request = {
        prompt: promptOf(stream, prompt, vocabSize),
        maxTokens: outputs,
        ...greedy,
      };
      let isFirst = true;
      for await (const _delta of engine.generate(request)) {
        if (isFirst && ++begun === streams) allBegun = performance.now() - start;
        isFirst = false;
      }
    }),
  );
  return { allBegun, end: performance.now() - start };
}

/** Tokens a second, by the name of the measure: medians of three runs after one that is not counted. */
async function measure(engine) {
  const rates = {};
  const median = async (run) => {
    await run();
    const runs = [await run(), await run(), await run()];
    return runs.sort((a, b) => a - b)[1];
  };
  rates[`prefill of ${sizes.prefill}`] = await median(async () => {
    const { allBegun } = await timeStreams(engine, 1, sizes.prefill, 1);
    return (1000 * sizes.prefill) / allBegun;
  });
  for (const streams of sizes.streams) {
    rates[`decode, ${streams} stream${streams > 1 ? "s" : ""}`] = await median(async () => {
      const { allBegun, end } = await timeStreams(engine, streams, sizes.prompt, sizes.outputs);
      return (1000 * streams * (sizes.outputs - 1)) / (end - allBegun);
    });
  }
  return rates;
}

function measureOn(device, model) {
  const tokens = Math.max(sizes.prefill + 1, sizes.streams.at(-1) * (sizes.prompt + sizes.outputs));
  const kvCache = { numBlocks: Math.ceil(tokens / 16) + sizes.streams.at(-1) + 1 };
  const scheduler = { maxBatchTokens: quick ? 64 : 2048, maxSequences: sizes.streams.at(-1) };
  const enforceEager = values["enforce-eager"];
  return withEngine({ model, device, kvCache, scheduler, enforceEager }, async (engine) => {
    const { name, isa } = engine.info.device;
    console.log(
      `${device}: ${name}, ${isa}; loaded in ${(engine.info.loadMs / 1000).toFixed(1)} s`,
    );
    return measure(engine);
  });
}

function printTable(byDevice) {
  const devices = Object.keys(byDevice);
  console.log(["tokens/s".padEnd(22), ...devices.map((name) => name.padStart(12))].join(""));
  for (const row of Object.keys(byDevice[devices[0]])) {
    const cells = devices.map((name) => byDevice[name][row].toFixed(1).padStart(12));
    console.log([row.padEnd(22), ...cells].join(""));
  }
}

async function measureSpeed(model, title) {
  console.log(title);
  const rates = { [device]: await measureOn(device, model) };
  if (!values["no-cpu"]) rates.cpu = await measureOn("cpu", model);
  printTable(rates);
}

/** Random weights of a shape, as bf16 safetensors, for as long as `use` runs. */
async function withRandomModel(shape, use) {
  const folder = mkdtempSync(path.join(os.tmpdir(), "pagoda-engine-"));
  try {
    const model = path.join(folder, shape);
    execFileSync(process.execPath, [
      path.join(root, "bench", "make-model.mjs"),
      shape,
      "hf",
      model,
    ]);
    await use(model);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

for (const name of ["demo", "demo-mla"]) await checkTokens(name);
if (values.model !== undefined) {
  await measureSpeed(values.model, values.model);
} else {
  const shape = values.shape ?? sizes.shape;
  await withRandomModel(shape, (model) => measureSpeed(model, `${shape}, random bf16 weights`));
}
