import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createEngine } from "pagoda-llm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "pagoda-perplexity-"));
afterAll(() => rmSync(scratch, { recursive: true }));

interface Row {
  readonly weights: string;
  readonly kv: string;
  readonly tokens: number;
  readonly perplexity: number;
  /** Of the perplexity to that of bf16. */
  readonly ratio: number;
  readonly kl: number;
}

/** What the bench prints of a model of the repository. */
function measure(model: string, types: string): Row[] {
  const options = ["--documents=20", `--types=${types}`, "--kv=bf16,int8", "--no-tasks", "--json"];
  const args = ["bench/perplexity.mjs", `models/${model}`, ...options, `--keep=${scratch}`];
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  expect(stderr).toBe("");
  return JSON.parse(stdout) as Row[];
}

function find(rows: readonly Row[], weights: string, kv = "f32"): Row {
  return rows.find((row) => row.weights === weights && row.kv === kv)!;
}

describe.each([
  { model: "demo", types: "f32,q8_0,q4_k", least: 1.5, most: 1.7 },
  { model: "demo-mla", types: "", least: 1.5, most: 1.8 },
])("perplexity of models/$model on held-out text", ({ model, types, least, most }) => {
  let rows: Row[] = [];
  beforeAll(() => {
    rows = measure(model, types);
  });

  it("is what its documentation says", () => {
    const { tokens, perplexity, ratio } = find(rows, "f32");
    expect(tokens).toBeGreaterThan(1500);
    expect(perplexity).toBeGreaterThan(least);
    expect(perplexity).toBeLessThan(most);
    expect(Math.abs(ratio - 1)).toBeLessThan(0.001);
  });

  it.skipIf(types === "")("is that of a GGUF file of the same numbers", () => {
    expect(find(rows, "f32 file").perplexity).toBeCloseTo(find(rows, "f32").perplexity, 5);
    expect(find(rows, "f32 file").kl).toBeLessThan(1e-9);
  });

  it.each([
    ["q8", "f32", 0.005],
    ["q4", "f32", 0.03],
    ["bf16", "bf16", 0.005],
    ["bf16", "int8", 0.005],
    ...(types === ""
      ? []
      : ([
          ["q8_0 file", "f32", 0.005],
          ["q4_k file", "f32", 0.03],
        ] as const)),
  ] as const)(
    "with weights of %s and a KV cache of %s is near that of bf16",
    (weights, kv, bound) => {
      const { ratio, kl } = find(rows, weights, kv);
      expect(Math.abs(ratio - 1)).toBeLessThan(bound);
      expect(kl).toBeLessThan(bound);
    },
  );
});

/** Teacher-forced, over what the demo model has written. */
async function logitsOf(model: string, dtype: "auto" | "f32"): Promise<Float32Array[]> {
  type Case = { promptTokenIds: number[]; outputTokenIds: number[] };
  const text = readFileSync(`${root}test/fixtures/demo-model/greedy.json`, "utf8");
  await using engine = await createEngine({ model, dtype, kvCache: { dtype: "f32" } });
  const results = (JSON.parse(text) as Case[]).map(({ promptTokenIds, outputTokenIds }) =>
    engine.logits(promptTokenIds.concat(outputTokenIds)),
  );
  return await Promise.all(results);
}

// What remains between the two is the rounding of activations to 8 bits.
it.each(["q8_0", "q4_k"])(
  "logits of %s are within 0.03 of those of its weights in float32",
  async (type) => {
    const model = join(scratch, `${type}.gguf`);
    const [actual, expected] = [await logitsOf(model, "auto"), await logitsOf(model, "f32")];
    const size = (lists: readonly Float32Array[]): number =>
      Math.sqrt(lists.flatMap((list) => [...list]).reduce((sum, x) => sum + x * x, 0));
    const errors = actual.map((list, i) => list.map((logit, j) => logit - expected[i]![j]!));
    expect(size(errors) / size(expected)).toBeLessThan(0.03);
  },
);
