"use strict";
// Whether the compiler made of the sm_90a kernels what they are written for: after `npm run build:cuda`, compiles each of their
// sources once more by the same command and fails where ptxas serialises wgmma or waits by itself (C75xx, which are no
// warnings to it), where registers are indexed at run time or spill (a stack frame), and where a kernel has no tensor core or
// copy engine instructions. Machine code is read by cuobjdump; where that is not installed, PTX is read instead.
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const database = path.resolve(
  __dirname,
  "..",
  process.argv[2] ?? path.join("build", "cmake-release-cuda"),
  "compile_commands.json",
);
const names = {
  sass: { tensorCores: /\bHGMMA\b/g, copyEngine: /\bUTMALDG\b/g },
  ptx: { tensorCores: /\bwgmma\.mma_async\b/g, copyEngine: /\bcp\.async\.bulk\.tensor\b/g },
};

function run(command, args, cwd) {
  const result = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 1 << 28 });
  if (result.error) throw result.error;
  if (result.status !== 0) throw new Error(`${command} failed:\n${result.stderr}`);
  return result;
}

function isInstalled(command) {
  return spawnSync(command, ["--version"]).error === undefined;
}

/** The command of a source with another kind of output. */
function compile({ command, directory }, kind, output) {
  const words = command.split(/\s+/).map((word) => word.replaceAll('\\"', '"'));
  const [compiler, ...args] = words.map((word, i) => (words[i - 1] === "-o" ? output : word));
  const changed = args.map((word) => (word === "-c" ? kind : word)).concat("-Xptxas=-v");
  return run(compiler, changed, directory);
}

/** Texts of the kernels in a listing, by name. */
function kernelsOf(listing, isSass) {
  const parts = listing.split(isSass ? /Function : (\S+)/ : /\.entry (\w+)\(/).slice(1);
  return parts.flatMap((name, i) => (i % 2 === 0 ? [[name, parts[i + 1]]] : []));
}

function problemsOfLog(log) {
  return log
    .split("\n")
    .filter((line) => /\bC75\d\d\b/.test(line) || /\b[1-9]\d* bytes stack frame/.test(line));
}

function check(entry, folder) {
  const isSass = isInstalled("cuobjdump");
  const cubin = path.join(folder, "kernels.cubin");
  const problems = problemsOfLog(compile(entry, "-cubin", cubin).stderr);
  const ptx = path.join(folder, "kernels.ptx");
  if (!isSass) compile(entry, "-ptx", ptx);
  const listing = isSass ? run("cuobjdump", ["-sass", cubin]).stdout : fs.readFileSync(ptx, "utf8");
  const kind = isSass ? "sass" : "ptx";
  const kernels = kernelsOf(listing, isSass);
  if (kernels.length === 0) problems.push("no kernel");
  for (const [kernel, text] of kernels) {
    const counts = Object.entries(names[kind]).map(([what, name]) => [
      what,
      text.match(name)?.length ?? 0,
    ]);
    console.log(
      `${kernel}: ${counts.map(([what, count]) => `${what} ${count}`).join(", ")} (${kind})`,
    );
    for (const [what, count] of counts) if (count === 0) problems.push(`${kernel}: no ${what}`);
  }
  return problems;
}

const entries = JSON.parse(fs.readFileSync(database, "utf8")).filter(({ command }) =>
  command.includes("sm_90a"),
);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "pagoda-sm90a-"));
try {
  const problems = entries.flatMap((entry) =>
    check(entry, folder).map((problem) => `${path.basename(entry.file)}: ${problem}`),
  );
  if (entries.length === 0) problems.push("no source is compiled for sm_90a");
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length === 0 ? 0 : 1;
} finally {
  fs.rmSync(folder, { recursive: true });
}
