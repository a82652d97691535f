"use strict";
// Makes the prebuilt binary of this platform with prebuildify: prebuilds/<platform>-<arch>/pagoda-llm.node.
// node-gyp wants Node's headers even though it compiles nothing itself: it takes those of the running Node.
// node-gyp also empties build/ first, so the local build is put back afterwards.
const { existsSync } = require("node:fs");
const { spawnSync } = require("node:child_process");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const prefix = path.resolve(path.dirname(process.execPath), "..");
const env = { ...process.env };
if (!env.npm_config_nodedir && existsSync(path.join(prefix, "include", "node", "node_api.h"))) {
  env.npm_config_nodedir = prefix;
}

function run(args) {
  const result = spawnSync(process.execPath, args, { stdio: "inherit", cwd: root, env });
  if (result.status !== 0) process.exit(result.status ?? 1);
}

const prebuildify = path.join(
  path.dirname(require.resolve("prebuildify/package.json", { paths: [root] })),
  "bin.js",
);
run([prebuildify, "--napi", "--strip", "--target", process.versions.node]);
run([path.join(__dirname, "build-native.cjs"), "--config", "Release"]);
