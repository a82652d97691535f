"use strict";
// Builds what CMakeLists.txt describes: the addon; with --tests the native tests, which are then run; with --cuda the
// CUDA plug-in, for all architectures of its package with --all-architectures. Called by npm scripts, by binding.gyp and by `npx pagoda build`. Uses cmake-js where it is installed
// (development) and plain cmake otherwise (a user's source build).
const { spawnSync } = require("node:child_process");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const option = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : fallback;
};
const flag = (name) => process.argv.includes(`--${name}`);
const jobs = String(os.availableParallelism()); // without a number, make starts all at once

const config = option("config", "Release");
const isAddon = !flag("tests") && !flag("cuda");
const variant = [
  config.toLowerCase(),
  ...["tests", "sanitize", "cuda", "all-architectures"].filter(flag),
].join("-");
const work = path.join(root, "build", `cmake-${variant}`);
const definitions = {
  PAGODA_OUTPUT_DIR: path.resolve(root, option("out", path.join("build", config))),
  PAGODA_BUILD_ADDON: isAddon ? "ON" : "OFF",
  PAGODA_BUILD_TESTS: flag("tests") ? "ON" : "OFF",
  PAGODA_SANITIZE: flag("sanitize") ? "ON" : "OFF",
  PAGODA_CUDA: flag("cuda") ? "ON" : "OFF",
  PAGODA_CUDA_ALL: flag("all-architectures") ? "ON" : "OFF",
};

function run(command, args) {
  const result = spawnSync(command, args, { stdio: "inherit", cwd: root });
  if (result.error) {
    console.error(
      `pagoda-llm: cannot run ${command}: ${result.error.message}. A source build needs cmake (>= 3.22) and a C++20 compiler.`,
    );
    process.exit(1);
  }
  if (result.status !== 0) process.exit(result.status ?? 1);
}

function resolveCmakeJs() {
  try {
    return path.join(
      path.dirname(require.resolve("cmake-js/package.json", { paths: [root] })),
      "bin",
      "cmake-js",
    );
  } catch {
    return undefined;
  }
}

function build() {
  const cmakeJs = isAddon ? resolveCmakeJs() : undefined;
  if (cmakeJs !== undefined) {
    // Not `compile`: it skips the configure step when a CMakeCache.txt is there, and so ignores changed options.
    const common = ["-d", root, "-O", work, "-B", config, "-a", option("arch", process.arch)];
    const defines = Object.entries(definitions).map(([name, value]) => `--CD${name}=${value}`);
    for (const step of ["configure", "build"])
      run(process.execPath, [cmakeJs, step, ...common, ...defines]);
    return;
  }
  const defines = Object.entries(definitions).map(([name, value]) => `-D${name}=${value}`);
  run("cmake", [
    "-S",
    root,
    "-B",
    work,
    `-DCMAKE_BUILD_TYPE=${config}`,
    `-DNODE_EXECUTABLE=${process.execPath}`,
    ...defines,
  ]);
  const target = flag("cuda") ? ["--target", "pagoda_backend_cuda"] : [];
  run("cmake", ["--build", work, "--config", config, "--parallel", jobs, ...target]);
}

build();
if (flag("tests")) {
  const options = ["--verbose", "--no-tests=error", "--parallel", jobs];
  run("ctest", ["--test-dir", work, ...options, "-C", config]);
}
