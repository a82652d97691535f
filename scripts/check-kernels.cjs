"use strict";
// Fails if the machine code of the CUDA plug-in is not what its sources mean: a kernel that keeps registers or arrays in
// memory (a stack frame), or lacks the instructions that native/cuda/kernels.json asks of it.
//
//   node scripts/check-kernels.cjs [library]
//
// kernels.json has an entry for every kernel that must have certain instructions or may have a stack frame:
//   instructions    of which each instance must have at least one each (names in scripts/cubins.cjs)
//   architectures   for which that is asked, 90 for 9.0; without it, for all
//   stackBytes      of its stack frame at most, for all architectures or, in an object, for some; without it, 0
const { readFileSync } = require("node:fs");
const path = require("node:path");
const { instructions, readKernels } = require("./cubins.cjs");

const root = path.resolve(__dirname, "..");

function allowedStack({ stackBytes = 0 }, architecture) {
  return typeof stackBytes === "number" ? stackBytes : (stackBytes[architecture] ?? 0);
}

function complaintsOf(kernel, rule = {}) {
  const { architecture, stackBytes, counts } = kernel;
  const complaints = [];
  if (stackBytes > allowedStack(rule, architecture))
    complaints.push(`a stack frame of ${stackBytes} bytes`);
  const isAsked = rule.architectures?.includes(architecture) ?? true;
  for (const name of isAsked ? (rule.instructions ?? []) : []) {
    if (!counts[name]) complaints.push(`no ${name}`);
  }
  return complaints.map(
    (what) => `${kernel.name} on ${versionOf(architecture)}: ${what} (${kernel.symbol})`,
  );
}

/** 9.0 for 90. */
function versionOf(architecture) {
  return (architecture / 10).toFixed(1);
}

/** Rules that are about nothing would check nothing. */
function idleRules(rules, kernels) {
  const complaints = [];
  for (const [name, rule] of Object.entries(rules)) {
    for (const instruction of rule.instructions ?? []) {
      if (!(instruction in instructions)) complaints.push(`${name}: ${instruction} is unknown`);
    }
    for (const architecture of rule.architectures ?? [undefined]) {
      const isThere = kernels.some(
        (kernel) =>
          kernel.name === name && (architecture ?? kernel.architecture) === kernel.architecture,
      );
      if (!isThere)
        complaints.push(
          `${name}: there is no such kernel${architecture ? ` for ${architecture}` : ""}`,
        );
    }
  }
  return complaints;
}

function main([library = path.join(root, "build", "Release", "pagoda_backend_cuda.so")]) {
  const rules = JSON.parse(readFileSync(path.join(root, "native", "cuda", "kernels.json"), "utf8"));
  const kernels = readKernels(readFileSync(library));
  const complaints = [
    ...kernels.flatMap((kernel) => complaintsOf(kernel, rules[kernel.name])),
    ...idleRules(rules, kernels),
  ];
  if (kernels.length === 0) complaints.push("the library holds no kernel");
  for (const complaint of complaints) console.error(complaint);
  const versions = new Set(kernels.map(({ architecture }) => versionOf(architecture)));
  console.log(`${kernels.length} kernels for ${[...versions].join(", ")}`);
  console.log(complaints.length === 0 ? "1 passed, 0 failed" : "0 passed, 1 failed");
  return complaints.length === 0 ? 0 : 1;
}

process.exitCode = main(process.argv.slice(2));
