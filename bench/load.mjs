// How long does loading take, and how much memory? Beside it, what cannot be less: `cat` of the same files to nowhere, and a
// copy of them into new memory by one thread. With a directory in which `npm install node-llama-cpp` was run, that package
// loads the same GGUF file, too. Each run is a process of its own; sides take turns.
//
//   npm run build && node bench/load.mjs MODEL [RUNS] [--dtype=auto|f32|bf16|q8|q4] [--threads=N] [--peer=DIR]
//
// MODEL is a directory or a GGUF file, for example of bench/make-model.mjs. Warm: the files are in the page cache. Cold: their
// pages were dropped before (`dd iflag=nocache`, which needs no rights, but leaves pages that other programs have mapped).
// Printed are medians. Peak: the largest resident set of the process, beside what weights and the KV cache of 64 blocks take.
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { createEngine } from "../dist/index.js";
import { openPeer } from "./cpu/node-llama-cpp.mjs";

const [model, runs = "5"] = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const option = (name) => process.argv.find((word) => word.startsWith(`--${name}=`))?.split("=")[1];
if (model === undefined) throw new Error("Usage: node bench/load.mjs MODEL [RUNS] [--dtype=TYPE]");

/** What a child process does. */
const sides = { load, copy, peer };
if (option("child") === undefined) compare();
else console.log(JSON.stringify(await sides[option("child")]()));

/** The time to read the files into memory that is new to the process. */
function copy() {
  const files = checkpointFiles();
  const startedAt = performance.now();
  for (const file of files) {
    const into = Buffer.allocUnsafeSlow(statSync(file).size);
    const descriptor = openSync(file);
    for (let at = 0; at < into.length;) {
      at += readSync(descriptor, into, at, Math.min(into.length - at, 2 ** 20), at);
    }
    closeSync(descriptor);
  }
  return { seconds: (performance.now() - startedAt) / 1000 };
}

async function peer() {
  const threads = Number(option("threads") ?? availableParallelism());
  const { loadMs } = await openPeer({ peer: option("peer"), setting: "default", model, threads });
  return { seconds: loadMs / 1000, peak: process.resourceUsage().maxRSS * 1024 };
}

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
    const copies = [];
    const loads = [];
    const peers = [];
    for (let run = 0; run < Number(runs); run++) {
      cats.push({ seconds: timeCat(files, cold) });
      copies.push(runSide("copy", files, cold));
      loads.push(runSide("load", files, cold));
      if (option("peer") !== undefined) peers.push(runSide("peer", files, cold));
    }
    console.log(`${name}: cat ${rates(cats, bytes)}; copy ${rates(copies, bytes)}`);
    console.log(`  load ${rates(loads, bytes)}`);
    if (peers.length > 0) {
      const peak = gigabytes(Math.max(...peers.map((run) => run.peak)));
      console.log(`  peer ${rates(peers, bytes)}; peak ${peak} GB`);
    }
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

function runSide(name, files, cold) {
  setCache(files, cold);
  const text = execFileSync(process.execPath, [...process.argv.slice(1), `--child=${name}`]);
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

function rates(results, bytes) {
  const sorted = results.map(({ seconds }) => seconds).toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)];
  const text = (value) => `${value.toFixed(2)} s (${gigabytes(bytes / value)} GB/s)`;
  return `${text(median)}, best ${text(sorted[0])}`;
}
