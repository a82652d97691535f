import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createGraph, type Graph } from "../../lib/graph/graph.js";
import type { PlanWeight } from "../../lib/graph/plan.js";
import type { Weight } from "../../lib/graph/weight-table.js";
import type { Checkpoint } from "../../lib/loading/safetensors.js";
import { readWeight } from "../../lib/loading/weights.js";
import { upProjections } from "../../lib/models/latent-projections.js";

const shape = {
  num_attention_heads: 2,
  kv_lora_rank: 4,
  qk_nope_head_dim: 3,
  v_head_dim: 2,
};
const tensor = "model.layers.0.self_attn.kv_b_proj.weight";

let directory = "";
let checkpoint: Checkpoint = { files: [], tensors: new Map() };
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "pagoda-kv-b-"));
  const file = join(directory, "data");
  // Element (row, column) is 100 * row + column.
  const data = Float32Array.from({ length: 40 }, (_, i) => 100 * Math.floor(i / 4) + (i % 4));
  await writeFile(file, new Uint8Array(data.buffer));
  const entry = { name: tensor, file, dtype: "F32", shape: [10, 4], offset: 0, bytes: 160 };
  checkpoint = { files: [], tensors: new Map([[tensor, entry]]) };
});
afterAll(() => rm(directory, { recursive: true }));

function build(expand: boolean): { g: Graph; weights: ReturnType<typeof upProjections> } {
  const g = createGraph();
  const weights = g.scope("layers.0.self_attn", () => upProjections(g, shape, { expand }));
  return { g, weights };
}

async function read(g: Graph, weight: Weight | undefined): Promise<number[][]> {
  const found = g.weights.all[weight?.index ?? -1] as PlanWeight;
  const data = await readWeight(checkpoint, { ...found, dtype: "f32" });
  return Array.from({ length: found.rows }, (_, row) => [
    ...data.subarray(row * found.cols, (row + 1) * found.cols),
  ]);
}

const rowOf = (row: number): number[] => [0, 1, 2, 3].map((column) => 100 * row + column);
const columnOf = (column: number, rows: number[]): number[] =>
  rows.map((row) => 100 * row + column);

describe("upProjections", () => {
  it("takes the rows of each head apart, and transposes W_UK", async () => {
    const { g, weights } = build(true);
    expect(await read(g, weights.keyUp)).toEqual([
      ...[0, 1, 2, 3].map((latent) => columnOf(latent, [0, 1, 2])),
      ...[0, 1, 2, 3].map((latent) => columnOf(latent, [5, 6, 7])),
    ]);
    expect(await read(g, weights.valueUp)).toEqual([3, 4, 8, 9].map(rowOf));
    expect(await read(g, weights.keyExpand)).toEqual([0, 1, 2, 5, 6, 7].map(rowOf));
  });

  it("makes the weights of the expanded form only where it is asked for", () => {
    const { g, weights } = build(false);
    expect(weights.keyExpand).toBeUndefined();
    expect(g.weights.all.map(({ name }) => name)).toEqual([
      "layers.0.self_attn.kv_b_proj.key_up",
      "layers.0.self_attn.kv_b_proj.value_up",
    ]);
  });
});
