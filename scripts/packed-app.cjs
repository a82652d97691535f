"use strict";
// An application in an empty folder that installs packed tarballs where no compiler is on the PATH.
const { execFileSync } = require("node:child_process");
const {
  mkdtempSync,
  mkdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} = require("node:fs");
const os = require("node:os");
const path = require("node:path");

function run(command, args, options = {}) {
  return execFileSync(command, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    ...options,
  });
}

/** A PATH that holds nothing but node, npm and sh. */
function barePath(folder) {
  const bin = path.join(folder, "bin");
  mkdirSync(bin);
  const npm = realpathSync(run("sh", ["-c", "command -v npm"]).trim());
  symlinkSync(process.execPath, path.join(bin, "node"));
  symlinkSync(npm, path.join(bin, "npm"));
  symlinkSync(realpathSync("/bin/sh"), path.join(bin, "sh"));
  return bin;
}

/** Packs a package folder into `folder`. */
function pack(source, folder) {
  const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", folder];
  const [{ filename, size }] = JSON.parse(run("npm", args, { cwd: source }));
  return { filename, size, tarball: path.join(folder, filename) };
}

class PackedApp {
  /** Removed by `remove`. */
  folder = mkdtempSync(path.join(os.tmpdir(), "pagoda-package-"));
  app = path.join(this.folder, "app");
  #env = { ...process.env, PATH: barePath(this.folder) };

  constructor() {
    mkdirSync(this.app);
    const manifest = { name: "app", private: true, type: "module" };
    writeFileSync(path.join(this.app, "package.json"), JSON.stringify(manifest));
  }

  /** Packs package folders and installs them; returns what `pack` tells of each. */
  install(...sources) {
    const packed = sources.map((source) => pack(source, this.folder));
    const flags = ["--ignore-scripts", "--no-audit", "--no-fund"];
    const tarballs = packed.map(({ tarball }) => tarball);
    run("npm", ["install", ...flags, ...tarballs], { cwd: this.app, env: this.#env });
    return packed;
  }

  /** Runs a module of this text and returns what it prints. */
  run(program, args, variables = {}) {
    writeFileSync(path.join(this.app, "main.mjs"), program);
    const env = { ...this.#env, ...variables };
    return run(process.execPath, ["main.mjs", ...args], { cwd: this.app, env }).trim();
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

module.exports = { PackedApp };
