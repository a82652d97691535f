"use strict";
// Assembles the npm package of the CUDA plug-in in build/pagoda-llm-cuda-linux-x64, from the plug-in built for all architectures,
// or with --library from another build. Its version is that of pagoda-llm, which takes no other.
//
//   node scripts/make-cuda-package.cjs [--library FILE] [--out FOLDER]
const { spawnSync } = require("node:child_process");
const { copyFileSync, cpSync, mkdirSync, rmSync, statSync, writeFileSync } = require("node:fs");
const path = require("node:path");
const { version, license } = require("../package.json");

const root = path.resolve(__dirname, "..");
const name = "pagoda-llm-cuda-linux-x64";
const libraryName = "libpagoda_cuda.so";

const option = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? path.resolve(process.argv[at + 1]) : fallback;
};

function run(script, ...args) {
  const command = [path.join(__dirname, script), ...args];
  const { status } = spawnSync(process.execPath, command, { stdio: "inherit", cwd: root });
  if (status !== 0) process.exit(status ?? 1);
}

/** For all architectures, its machine code checked. */
function buildLibrary() {
  const folder = path.join(root, "build", "cuda-all-architectures");
  run("build-native.cjs", "--config", "Release", "--cuda", "--all-architectures", "--out", folder);
  const library = path.join(folder, "pagoda_backend_cuda.so");
  run("check-kernels.cjs", library);
  return library;
}

const manifest = {
  name,
  version,
  description: "The CUDA backend of pagoda-llm for Linux on x86-64",
  license,
  os: ["linux"],
  cpu: ["x64"],
  libc: ["glibc"],
  exports: { "./backend": "./backend.cjs", "./package.json": "./package.json" },
  files: ["backend.cjs", libraryName],
  peerDependencies: { "pagoda-llm": version },
};

const library = option("library") ?? buildLibrary();
const folder = option("out", path.join(root, "build", name));
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
cpSync(path.join(root, "packages", "cuda"), folder, { recursive: true });
copyFileSync(path.join(root, "LICENSE"), path.join(folder, "LICENSE"));
copyFileSync(library, path.join(folder, libraryName));
writeFileSync(path.join(folder, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
const megabytes = (statSync(library).size / 1e6).toFixed(2);
console.log(`${path.relative(root, folder)}: ${name} ${version}, ${megabytes} MB`);
