import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { activations, groupScores, layouts, opSpecs, scorings } from "../../lib/graph/ops.js";
import { loadNative, packageRoot } from "../../lib/native.js";

const header = readFileSync(join(packageRoot, "native", "backend.h"), "utf8");

/** Enums of native/backend.h that attributes name. */
const enums = {
  PagodaLayout: { values: layouts, prefix: "" },
  PagodaActivation: { values: activations, prefix: "" },
  PagodaScoring: { values: scorings, prefix: "" },
  PagodaGroupScore: { values: groupScores, prefix: "GROUP_" },
};

/** Names of the op pointers in the table `PagodaBackend`. */
function headerOps(): string[] {
  const table = header.slice(header.indexOf("/* Ops; NULL where the backend lacks one. */"));
  return [
    ...table.matchAll(/PagodaStatus \(\*(\w+)\)\(PagodaDevice\* device, const Pagoda\w+\* op,/g),
  ].map((m) => m[1] ?? "");
}

/** Members of a C struct of native/backend.h: type and name. */
function structMembers(name: string): Map<string, string> {
  const body =
    header.match(new RegExp(`typedef struct ${name} \\{([\\s\\S]*?)\\n\\} ${name};`))?.[1] ?? "";
  const members = [...body.matchAll(/^ {2}(?:const )?([\w*]+) (\w+);/gm)];
  return new Map(members.map((m) => [m[2] ?? "", m[1] ?? ""]));
}

describe("the op table", () => {
  it("is the same in native/backend.h", () => {
    // Copies are an input of the step and need no step of a plan.
    const expected = [...Object.keys(opSpecs), "copyBlocks"].sort();
    expect(headerOps().sort()).toEqual(expected);
  });

  it.each(Object.entries(opSpecs))(
    "%s: the members of its struct in native/backend.h",
    (op, spec) => {
      const members = structMembers(`Pagoda${op[0]?.toUpperCase()}${op.slice(1)}`);
      const ofType = (type: string): string[] =>
        [...members].filter(([, t]) => t === type).map(([name]) => name);
      expect(ofType("PagodaTensor").filter((name) => name !== "out")).toEqual(spec.inputs);
      expect(members.has("out")).toBe(spec.hasOutput);
      expect(ofType("PagodaWeight")).toEqual(spec.weights.map((name) => name.replace("?", "")));
      // `layer` stands for the cache.
      const scalars = ["float", "int32_t", ...Object.keys(enums)].flatMap(ofType);
      const cache = members.has("cache") ? ["layer"] : [];
      expect([...cache, ...scalars].sort()).toEqual([...spec.attributes].sort());
    },
  );

  it.each(Object.entries(enums))("has the values of %s", (name, { values, prefix }) => {
    const body =
      header.match(new RegExp(`typedef enum ${name} PAGODA_INT32 \\{([^}]*)\\}`))?.[1] ?? "";
    const members = [...body.matchAll(/PAGODA_(\w+) = (\d+)/g)].map((m) => [m[1], Number(m[2])]);
    const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase();
    const expected = Object.entries(values).map(([name, value]) => [prefix + snake(name), value]);
    expect(members).toEqual(expected);
  });

  it("is the same in the addon", () => {
    const expected = Object.entries(opSpecs).map(([op, { attributes }]) => [op, [...attributes]]);
    expect(loadNative().ops).toEqual(Object.fromEntries(expected));
  });
});
