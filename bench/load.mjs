// How long does loading take, and how much memory? Beside it, `cat` of the same files to nowhere: the time that reading alone
// takes. Each run is a process of its own.
//
//   npm run build:ts && node bench/load.mjs MODEL [RUNS] [--dtype=auto|f32|bf16|q8|q4] [--threads=N]
//
// MODEL is a directory or a GGUF file, for example of bench/make-model.mjs. Warm: the files are in the page cache. Cold: their
// pages were dropped before (`dd iflag=nocache`, which needs no rights, but leaves pages that other programs have mapped).
// Peak: the largest resident set of the process, beside what weights and the KV cache of 64 blocks take.
import { execFileSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { createEngine } from "../dist/index.js";

const [model, runs = "5"] = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const option = (name) => process.argv.find((word) => word.startsWith(`--${name}=`))?.split("=")[1];
if (model === undefined) throw new Error("Usage: node bench/load.mjs MODEL [RUNS] [--dtype=TYPE]");

if (option("child") === undefined) compare();
else console.log(JSON.stringify(await load()));

async function load() {
  const threads = option("threads");
  const startedAt = performance.now();
  const engine = await createEngine({
    model,
    dtype: option("dtype") ?? "auto",
    kvCache: { numBlocks: 64 },
    ...(threads !== undefined && { threads: Number(threads) }),
  });
  const loadedAt = performance.now();
  for await (const _ of engine.generate({ prompt: [1], maxTokens: 1, ignoreEos: true }));
  const firstToken = (performance.now() - loadedAt) / 1000;
  const { weightMemory, kvCache } = engine.info;
  await engine.close();
  return {
    seconds: (loadedAt - startedAt) / 1000,
    firstToken,
    memory: weightMemory + kvCache.memory,
    peak: process.resourceUsage().maxRSS * 1024,
  };
}

function compare() {
  const files = checkpointFiles();
  const bytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
  console.log(`${model}: ${gigabytes(bytes)} GB`);
  for (const cold of [false, true]) {
    const name = cold ? "cold" : "warm";
    const cats = [];
    const loads = [];
    for (let run = 0; run < Number(runs); run++) {
      cats.push(timeCat(files, cold));
      loads.push(runLoad(files, cold));
    }
    const seconds = loads.map((run) => run.seconds);
    console.log(`${name}: cat ${rates(cats, bytes)}; load ${rates(seconds, bytes)}`);
    const { peak, memory, firstToken } = loads.toSorted((a, b) => b.peak - a.peak)[0];
    const more = ((peak - memory) / 1e6).toFixed(0);
    const first = `first token after ${(1000 * firstToken).toFixed(0)} ms`;
    console.log(`  peak ${gigabytes(peak)} GB: ${more} MB above weights and KV cache; ${first}`);
  }
}

function checkpointFiles() {
  if (!statSync(model).isDirectory()) return [model];
  const names = readdirSync(model).filter((name) => name.endsWith(".safetensors"));
  return names.map((name) => join(model, name));
}

function runLoad(files, cold) {
  setCache(files, cold);
  const text = execFileSync(process.execPath, [...process.argv.slice(1), "--child=1"]);
  return JSON.parse(text);
}

function timeCat(files, cold) {
  setCache(files, cold);
  const startedAt = performance.now();
  cat(files);
  return (performance.now() - startedAt) / 1000;
}

function setCache(files, cold) {
  if (!cold) return cat(files);
  execFileSync("sync");
  const dropped = { stdio: "ignore" };
  for (const file of files) execFileSync("dd", [`if=${file}`, "iflag=nocache", "count=0"], dropped);
}

function cat(files) {
  execFileSync("cat", files, { stdio: ["ignore", "ignore", "inherit"] });
}

function gigabytes(bytes) {
  return (bytes / 1e9).toFixed(2);
}

function rates(seconds, bytes) {
  const sorted = seconds.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)];
  const text = (value) => `${value.toFixed(2)} s (${gigabytes(bytes / value)} GB/s)`;
  return `${text(median)}, best ${text(sorted[0])}`;
}
