// Fails if an object file compiled for one instruction set defines or uses a weak symbol. The linker keeps one copy of
// a weak symbol (an inline function, a template, a static local of one), and if that is the AVX-512 copy, the baseline
// code faults on an older processor.
//
//   node scripts/check-isa-symbols.cjs <object file>...
//
// Object files of another format than `nm` reads are an error too.
"use strict";

const { execFileSync } = require("node:child_process");

/** Symbols of nm's classes V, W (weak), u (unique); in lower case: undefined weak ones. */
function weakSymbols(file) {
  const output = execFileSync("nm", ["-C", file], { encoding: "utf8", maxBuffer: 1 << 26 });
  return output.split("\n").filter((line) => /^[0-9a-fA-F]*\s+[VvWwu] /.test(line));
}

function main(files) {
  if (files.length === 0) {
    console.error("Expected object files as arguments.");
    return 1;
  }
  let offenders = 0;
  for (const file of files) {
    for (const line of weakSymbols(file)) {
      console.error(`${file}: weak symbol ${line.trim()}`);
      offenders += 1;
    }
  }
  const failed = offenders === 0 ? 0 : 1;
  console.log(`${files.length} object files, ${offenders} weak symbols`);
  console.log(`${1 - failed} passed, ${failed} failed`);
  return offenders === 0 ? 0 : 1;
}

process.exitCode = main(process.argv.slice(2));
