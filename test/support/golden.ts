import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ModelDtype } from "../../lib/graph/choose-dtype.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { defineModel } from "../../lib/models/registry.js";
import { openModel } from "../../lib/loading/model-directory.js";
import { keptTensors, readWeight } from "../../lib/loading/weights.js";
import type { Plan } from "../../lib/graph/plan.js";
import type { Checkpoint } from "../../lib/loading/safetensors.js";

const fixtures = fileURLToPath(new URL("../fixtures/", import.meta.url));

/** One sequence and what Hugging Face transformers, run in float64, makes of it. */
export interface GoldenCase {
  readonly ids: readonly number[];
  /** `ids` and then the most probable token again and again. */
  readonly greedy: readonly number[];
  /** Float32 [ids.length, vocabSize]. */
  readonly logits: Float32Array;
}

export interface Golden {
  /** e.g. `hf-tiny/llama` */
  readonly name: string;
  readonly cases: readonly GoldenCase[];
  readonly checkpoint: Checkpoint;
  readonly plan: Plan;
  /** Float32 [rows, cols], in the order of `plan.weights`. */
  readonly weights: readonly Float32Array[];
}

/** Names of all golden models, below test/fixtures. */
export function goldenNames(): string[] {
  return ["hf-tiny", "hf-extra"].flatMap((set) => {
    return readdirSync(join(fixtures, set)).map((name) => `${set}/${name}`);
  });
}

export function goldenDirectory(name: string): string {
  return join(fixtures, name);
}

export const goldenMaxTokens = 128;

/**
 * @param dtype of the weights; f16: of those that the checkpoint has in it, the others f32
 * @param path another copy of the same model, e.g. a GGUF file
 */
export async function loadGolden(
  name: string,
  dtype: ModelDtype | "f16" = "f32",
  path: string = goldenDirectory(name),
): Promise<Golden> {
  const { config, checkpoint } = await openModel(path);
  const model = defineModel(config);
  const plan = compileModel(model, {
    maxTokens: goldenMaxTokens,
    maxOutputs: goldenMaxTokens,
    dtype: dtype === "f16" ? "f32" : dtype,
    ...(dtype === "f16" && { kept: keptTensors(checkpoint) }),
  });
  const weights = await Promise.all(plan.weights.map((weight) => readWeight(checkpoint, weight)));
  return {
    name,
    cases: await readCases(goldenDirectory(name), plan.vocabSize),
    checkpoint,
    plan,
    weights,
  };
}

async function readCases(directory: string, vocabSize: number): Promise<GoldenCase[]> {
  const { cases } = JSON.parse(await readFile(join(directory, "golden.json"), "utf8")) as {
    cases: Omit<GoldenCase, "logits">[];
  };
  const bytes = await readFile(join(directory, "golden_logits.f32"));
  const all = new Float32Array(new Uint8Array(bytes).buffer);
  let start = 0;
  return cases.map(({ ids, greedy }) => {
    const logits = all.subarray(start, (start += ids.length * vocabSize));
    return { ids, greedy, logits };
  });
}
