"use strict";
// Adds up what the test runners printed into the files named on the command line and prints "N passed, N failed, N skipped".
const { readFileSync } = require("node:fs");

const escapes = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, "g");
const totals = { passed: 0, failed: 0, skipped: 0 };

function addVitest(line) {
  if (!/^\s*Tests\s+\d/.test(line)) return;
  for (const [, count, kind] of line.matchAll(/(\d+) (passed|failed|skipped)/g))
    totals[kind] += Number(count);
}

function addNative(line) {
  const match = /^(?:\d+: )?(\d+) passed, (\d+) failed$/.exec(line.trim());
  if (match === null) return;
  totals.passed += Number(match[1]);
  totals.failed += Number(match[2]);
}

for (const file of process.argv.slice(2)) {
  for (const line of readFileSync(file, "utf8").replace(escapes, "").split("\n")) {
    addVitest(line);
    addNative(line);
  }
}
if (totals.passed === 0) throw new Error("No test has run");
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed === 0 ? 0 : 1;
