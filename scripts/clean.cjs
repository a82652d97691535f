"use strict";
// Removes folders of build results, so that no stale file is packed.
const { rmSync } = require("node:fs");
const path = require("node:path");

for (const folder of process.argv.slice(2)) {
  rmSync(path.resolve(__dirname, "..", folder), { recursive: true, force: true });
}
