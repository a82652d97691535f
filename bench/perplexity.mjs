// What does quantising cost in quality? Perplexity of each type of weights and of the KV cache on the same text, and how far
// its logits are from those of float32.
//
//   npm run build:ts && node bench/perplexity.mjs [MODEL] [--text=FILE] [--documents=200] [--context=512]
//     [--dtypes=f32,bf16,q8,q4] [--types=q8_0,...] [--kv=bf16,int8] [--threads=N] [--no-tasks] [--json] [--keep=DIR]
//
// MODEL is a directory or a GGUF file; without it, the demo model. The text is FILE in windows of `context` tokens, else held-out
// documents of the corpus of both demo models, which are made anew and are always the same. Rows:
//   dtypes  what `createEngine({ dtype })` makes of MODEL, with a KV cache in float32
//   types   GGUF files of the same weights, made by the plain encoders of bench/model; all types where MODEL is a directory of
//           Llama or Qwen2. Matrices whose rows are not whole blocks of 256 get columns of zeros, which change no result.
//   kv      types of the KV cache beside weights in bf16
// The ratio is that of the perplexity to bf16 weights with a KV cache in float32. All else is beside float32 weights: the share
// of places where both find the same token most probable, the mean of KL(float32 || row) in nats, the largest difference of a
// logit. For the demo models also the share of right answers to their tasks (docs/demo-model.md).
import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createEngine } from "../dist/index.js";
import { padModel } from "./model/pad-model.mjs";
import { isReadable, readModel } from "./model/stored-model.mjs";
import { typesOf } from "./model/tensor-types.mjs";
import { writeGguf } from "./model/write-gguf.mjs";
import { measureTasks, measureTexts } from "./quality/measure.mjs";
import { demoDocuments, demoTasks, textWindows } from "./quality/texts.mjs";

const blockTypes = ["q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k_m", "q4_k", "q4_1", "q4_0"];
const [demo, demoMla] = ["demo", "demo-mla"].map((name) =>
  fileURLToPath(new URL(`../models/${name}`, import.meta.url)),
);

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    text: { type: "string" },
    documents: { type: "string", default: "200" },
    context: { type: "string", default: "512" },
    dtypes: { type: "string", default: "f32,bf16,q8,q4" },
    types: { type: "string" },
    kv: { type: "string", default: "bf16,int8" },
    threads: { type: "string" },
    "no-tasks": { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    keep: { type: "string" },
  },
});
const [model = demo] = positionals;
const scratch = options.keep ?? mkdtempSync(join(tmpdir(), "pagoda-perplexity-"));
mkdirSync(scratch, { recursive: true });
try {
  const rows = await measureAll();
  if (options.json) console.log(JSON.stringify(rows));
} finally {
  if (options.keep === undefined) rmSync(scratch, { recursive: true });
}

function list(text) {
  return text === "" ? [] : text.split(",");
}

/** What each row runs: its name, the model and the types of weights and KV cache. Float32 and bf16 come first. */
function plannedRows() {
  const canEncode = statSync(model).isDirectory() && isReadable(model);
  const dtypes = new Set(["f32", "bf16", ...list(options.dtypes)]);
  const types = list(options.types ?? (canEncode ? ["f32", ...blockTypes].join() : ""));
  return [
    ...[...dtypes].map((dtype) => ({ weights: dtype, kv: "f32", model, dtype })),
    ...types.map((type) => ({ weights: `${type} file`, kv: "f32", type, dtype: "auto" })),
    ...list(options.kv).map((kv) => ({ weights: "bf16", kv, model, dtype: "bf16" })),
  ];
}

async function measureAll() {
  const reference = await open({ model, dtype: "f32", kv: "f32" });
  const inputs = await readInputs(reference);
  const rows = [];
  for (const planned of plannedRows()) {
    const isReference = rows.length === 0;
    const engine = isReference ? reference : await open({ ...planned, model: modelOf(planned) });
    const texts = await measureTexts(engine, inputs.documents, {
      file: join(scratch, "logits.f32"),
      isReference,
    });
    const ratio = texts.perplexity / (rows[1] ?? texts).perplexity;
    const tasks = await measureTasks(engine, inputs.tasks, inputs);
    rows.push({ weights: planned.weights, kv: planned.kv, ...texts, ratio, tasks });
    if (rows.length === 2) rows[0].ratio = rows[0].perplexity / texts.perplexity;
    if (!options.json) print(rows);
    if (!isReference) await engine.close();
  }
  await reference.close();
  return rows;
}

function open({ model, dtype, kv }) {
  const { threads } = options;
  return createEngine({
    model,
    dtype,
    kvCache: { dtype: kv },
    ...(threads !== undefined && { threads: Number(threads) }),
  });
}

async function readInputs({ tokenizer, info }) {
  const { maxModelLen, eosTokenIds } = info.model;
  const count = Number(options.documents);
  const length = Math.min(Number(options.context), maxModelLen);
  const documents =
    options.text === undefined
      ? await demoDocuments(tokenizer, count, maxModelLen)
      : await textWindows(tokenizer, options.text, count, length);
  const hasTasks = [demo, demoMla].includes(resolve(model)) && !options["no-tasks"];
  const tasks = hasTasks ? await demoTasks(tokenizer) : [];
  return { documents, tasks, tokenizer, stopTokenIds: [...eosTokenIds] };
}

/** The path of what a row runs; GGUF files are made. */
function modelOf({ model: path, type }) {
  if (path !== undefined) return path;
  const { shape, tensors, rowsOf } = padModel(readModel(model));
  const file = join(scratch, `${type}.gguf`);
  writeGguf(file, shape, tensors, { name: type, typeOf: typesOf(type, shape), rowsOf });
  return file;
}

/** The last row, or after the second the table so far: before it the ratios are not known. */
function print(rows) {
  if (rows.length === 1) return;
  if (rows.length === 2) {
    const columns = ["weights", "KV cache", "perplexity", "to bf16", "same token", "KL", "logit"];
    const titles = [...columns, ...Object.keys(rows[0].tasks)];
    console.log(`${model}, ${rows[0].tokens} tokens\n\n| ${titles.join(" | ")} |`);
    console.log(`|${titles.map((_, i) => (i < 2 ? " --- |" : " ---: |")).join("")}`);
  }
  for (const row of rows.length === 2 ? rows : rows.slice(-1)) console.log(lineOf(row));
}

function lineOf(row) {
  const percent = (digits, signDisplay = "auto") => {
    const digitsShown = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return new Intl.NumberFormat("en", { style: "percent", signDisplay, ...digitsShown });
  };
  const change = percent(2, "exceptZero").format(row.ratio - 1);
  const same = percent(2).format(row.agreement);
  const beside = [same, row.kl.toExponential(1), row.largestError.toFixed(3)];
  const tasks = Object.values(row.tasks).map((share) => percent(1).format(share));
  const cells = [row.weights, row.kv, row.perplexity.toFixed(4), change, ...beside, ...tasks];
  return `| ${cells.join(" | ")} |`;
}
