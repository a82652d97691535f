import type { StepInput } from "../engine/step.js";
import { visibleSlots } from "./attention.js";
import { cacheRow, type KvCache } from "./kv-cache.js";
import { at, dot, rowOf, type Matrix } from "./matrix.js";

export interface MlaAttentionAttributes {
  readonly numHeads: number;
  readonly scale: number;
}

type Batch = Pick<StepInput, "queryStartLoc" | "seqLens" | "blockTable" | "maxBlocks">;

/**
 * Multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv:2405.04434). Tokens see positions as in `attention`; all
 * heads meet the same rows `[latent | rope key]`. With score = [query | queryRope] . row * scale:
 * out = sum(softmax(score) * latent).
 */
export function mlaAttention(
  out: Matrix, // [tokens, numHeads * latentDim]
  query: Matrix, // [tokens, numHeads * latentDim]
  queryRope: Matrix, // [tokens, numHeads * ropeDim]
  cache: KvCache,
  batch: Batch,
  { numHeads, scale }: MlaAttentionAttributes,
): void {
  for (const { row, position, blocks } of batchRows(batch)) {
    const rows = visibleSlots(cache, blocks, position, 0).map((s) => cacheRow(cache, "key", s, 0));
    for (let head = 0; head < numHeads; head++) {
      const [latent, rope] = [
        headOf(query, row, head, numHeads),
        headOf(queryRope, row, head, numHeads),
      ];
      attendHead(headOf(out, row, head, numHeads), latent, rope, rows, scale);
    }
  }
}

/** The rows of a batch: which position of which block table each of them is. */
export function* batchRows(
  batch: Batch,
): Generator<{ row: number; position: number; blocks: Int32Array }> {
  const { queryStartLoc, seqLens, blockTable, maxBlocks } = batch;
  for (const [request, seqLen] of seqLens.entries()) {
    const end = at(queryStartLoc, request + 1);
    const blocks = blockTable.subarray(request * maxBlocks, (request + 1) * maxBlocks);
    for (let row = at(queryStartLoc, request); row < end; row++) {
      yield { row, position: seqLen - (end - row), blocks };
    }
  }
}

function headOf(x: Matrix, row: number, head: number, numHeads: number): Float32Array {
  const width = x.width / numHeads;
  return rowOf(x, row).subarray(head * width, (head + 1) * width);
}

function attendHead(
  out: Float32Array, // [latentDim]
  query: Float32Array, // [latentDim]
  queryRope: Float32Array, // [ropeDim]
  rows: readonly Float32Array[], // [latentDim + ropeDim] each
  scale: number,
): void {
  const latentDim = query.length;
  const scores = rows.map((row) => {
    const latent = dot(query, row.subarray(0, latentDim));
    return (latent + dot(queryRope, row.subarray(latentDim))) * scale;
  });
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, 0);
  for (let d = 0; d < latentDim; d++) {
    const sum = rows.reduce((sum, row, i) => sum + at(weights, i) * at(row, d), 0);
    out[d] = sum / total;
  }
}
