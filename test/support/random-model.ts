import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { WeightPart } from "../../lib/graph/plan.js";
import { ConfigReader } from "../../lib/loading/config.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { defineModel } from "../../lib/models/registry.js";
import { createRandom } from "./random.js";

/** Writes a model directory with a config and float32 weights that keep activations near unit size. */
export async function writeRandomModel(
  directory: string,
  config: Readonly<Record<string, unknown>>,
  seed = 1,
): Promise<void> {
  const random = createRandom(seed);
  const tensors = [...shapesOf(config)].map(([name, shape]) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const isNorm = name.endsWith("norm.weight");
    const columns = name.includes("embed_tokens") ? 1 : shape.at(-1)!;
    const scale = isNorm || shape.length === 1 ? 0.2 : columns ** -0.5;
    const data = random.normals(count, scale).map((value) => (isNorm ? 1 + value : value));
    return { name, shape, data };
  });
  await writeFile(join(directory, "config.json"), JSON.stringify(config));
  await writeSafetensors(join(directory, "model.safetensors"), tensors);
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

export interface FloatTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export async function writeSafetensors(
  path: string,
  tensors: readonly FloatTensor[],
): Promise<void> {
  let offset = 0;
  const header = Object.fromEntries(
    tensors.map(({ name, shape, data }) => {
      const data_offsets = [offset, (offset += data.byteLength)];
      return [name, { dtype: "F32", shape, data_offsets }];
    }),
  );
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const bytes = tensors.map(({ data }) =>
    Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  );
  await writeFile(path, Buffer.concat([length, text, ...bytes]));
}
