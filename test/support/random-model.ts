import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { WeightPart } from "../../lib/graph/plan.js";
import { ConfigReader } from "../../lib/loading/config.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { defineModel } from "../../lib/models/registry.js";
import { writeTensors, type Tensors } from "./quantized-directory.js";
import { createRandom } from "./random.js";

/** Writes a model directory with a config and bf16 weights that keep activations near unit size. */
export async function writeRandomModel(
  directory: string,
  config: Readonly<Record<string, unknown>>,
  seed = 1,
): Promise<void> {
  const random = createRandom(seed);
  const tensors: Tensors = new Map();
  for (const [name, shape] of shapesOf(config)) {
    const count = shape.reduce((product, size) => product * size, 1);
    const isNorm = name.endsWith("norm.weight");
    const columns = name.includes("embed_tokens") ? 1 : shape.at(-1)!;
    const scale = isNorm || shape.length === 1 ? 0.2 : columns ** -0.5;
    const data = random.normals(count, scale).map((value) => (isNorm ? 1 + value : value));
    tensors.set(name, { dtype: "BF16", shape, data: bf16Bytes(data) });
  }
  await writeFile(join(directory, "config.json"), JSON.stringify(config));
  await writeFile(join(directory, "generation_config.json"), "{}");
  writeTensors(join(directory, "model.safetensors"), tensors);
}

/** The checkpoint tensors that a model reads. */
function shapesOf(config: Readonly<Record<string, unknown>>): Map<string, readonly number[]> {
  const model = defineModel(new ConfigReader(config, "config.json"));
  const plan = compileModel(model, { maxTokens: 1, maxOutputs: 1, dtype: "f32" });
  const parts = plan.weights.flatMap(({ source }): readonly WeightPart[] =>
    "parts" in source ? source.parts : [],
  );
  return new Map(parts.map(({ tensor, shape }) => [tensor, shape]));
}

/** Cut, not rounded. */
function bf16Bytes(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer);
  return new Uint8Array(Uint16Array.from(bits, (word) => word >>> 16).buffer);
}
