// How fast is the engine on the CPU, beside node-llama-cpp (llama.cpp) on the same GGUF file with the same threads?
//
//   npm run build && node bench/cpu.mjs MODEL.gguf... [--peer DIR] [--threads N] [--rounds N] [--measures NAME,NAME]
//                                       [--settings NAME,NAME] [--html FILE]
//
//   --peer      a directory in which `npm install node-llama-cpp` was run; without it, only our figures are printed
//   --threads   of both sides; all cores unless set
//   --rounds    3 unless set; printed are medians
//   --measures  of: prefill, decode1, decode4, decode8, decode16, decode32, 2k, 4k, 8k, 16k (prompt tokens), first; all
//               unless set
//   --settings  of the peer: default, tuned, tuned-no-flash (see bench/cpu/node-llama-cpp.mjs); all unless set
//   --html      writes the tables and bars to a page
//
// Each round runs all sides, one after another and each in a process of its own. The first token of a prompt counts as
// prefill, decoding is counted from the moment when all streams have begun. Sampling is greedy and goes on after an
// end-of-sequence token; both sides are checked to have computed the same number of tokens. A ratio above 1 is in our favour
// and against the better setting of the peer. bench/make-model.mjs makes models; where bench/limits.cc is built, each round
// measures the limits of the machine, too, and figures that have one are set beside it.
import { fork } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { measureLimits, readModel } from "./cpu/limits.mjs";
import { measures, median, tokensOf } from "./cpu/measures.mjs";
import { peerSettings, peerVersion } from "./cpu/node-llama-cpp.mjs";
import { pageOf } from "./cpu/page.mjs";
import { cellsOf, markdownOf, rowsOf } from "./cpu/table.mjs";

const sideProgram = fileURLToPath(new URL("./cpu/side.mjs", import.meta.url));
const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));

function readArguments() {
  const text = { type: "string" };
  const options = {
    peer: text,
    threads: text,
    rounds: text,
    measures: text,
    settings: text,
    html: text,
  };
  const { values, positionals: models } = parseArgs({ options, allowPositionals: true });
  if (models.length === 0) throw new Error("Usage: node bench/cpu.mjs MODEL.gguf... [--peer DIR]");
  return {
    ...values,
    models,
    threads: Number(values.threads ?? availableParallelism()),
    rounds: Number(values.rounds ?? 3),
    names: pick("measures", values.measures, measures),
    settings: values.peer === undefined ? [] : pick("settings", values.settings, peerSettings),
  };
}

/** The named keys of `all`. */
function pick(option, list, all) {
  const names = list?.split(",") ?? Object.keys(all);
  const unknown = names.find((name) => !Object.hasOwn(all, name));
  if (unknown === undefined) return names;
  throw new Error(
    `Expected ${Object.keys(all).join(", ")} for \`${option}\` but received ${unknown}`,
  );
}

/** Takes the measures in a process of their own. */
function runSide({ name, environment }, options) {
  return new Promise((resolve, reject) => {
    const child = fork(sideProgram, { env: { ...process.env, ...environment } });
    child.once("message", resolve);
    child.once("exit", (code) => reject(new Error(`${name} ended with code ${code}`)));
    child.send(options);
  });
}

/** Our side, then the peer's settings. */
function sidesOf({ settings }) {
  const peers = settings.map((setting) => {
    const { environment } = peerSettings[setting];
    return { name: `peer, ${setting}`, setting, environment, rounds: [] };
  });
  return [{ name: "Pagoda", rounds: [] }, ...peers];
}

async function benchModel(file, options) {
  const { peer, threads, rounds } = options;
  const model = await readModel(file);
  const names = options.names.filter((name) => tokensOf(measures[name]) <= model.contextLength);
  const sides = sidesOf(options);
  const limits = [];
  for (let round = 0; round < rounds; round++) {
    limits.push(measureLimits(threads));
    for (const side of sides) {
      const { setting } = side;
      side.rounds.push(
        await runSide(side, { model: path.resolve(file), names, threads, peer, setting }),
      );
    }
  }
  const limit = medianLimits(limits);
  const rows = rowsOf({ names, sides, model, limits: limit });
  return { title: path.basename(file, ".gguf"), lines: linesOf(options, limit), sides, rows };
}

function medianLimits(limits) {
  if (limits[0] === undefined) return undefined;
  const entries = Object.keys(limits[0]).map((key) => [
    key,
    median(limits.map((each) => each[key])),
  ]);
  return Object.fromEntries(entries);
}

function linesOf({ peer, threads, rounds }, limits) {
  const programs = [`Pagoda ${version}`, peer === undefined ? [] : peerVersion(peer)].flat();
  const lines = [
    `${cpus()[0].model}, ${threads} threads; ${programs.join(", ")}, Node.js ${process.version}`,
    `${new Date().toISOString().slice(0, 10)}, medians of ${rounds} rounds`,
  ];
  if (limits === undefined) return lines;
  const giga = (value) => (value / 1e9).toFixed(0);
  const peaks = `f32 ${giga(limits.f32)}, bf16 ${giga(limits.bf16)}, int8 ${giga(limits.int8)} GOP/s`;
  return [...lines, `Limits: ${giga(limits.bandwidth)} GB/s, ${peaks}`];
}

const options = readArguments();
const reports = [];
for (const file of options.models) {
  const report = await benchModel(file, options);
  reports.push(report);
  console.log(`${report.title}\n${report.lines.join("\n")}\n`);
  console.log(`${markdownOf(cellsOf(report.sides, report.rows))}\n`);
  if (options.html !== undefined) writeFileSync(options.html, pageOf(reports));
}
