import { visibleSlots } from "./attention.js";
import { batchRequests, type Batch, type BatchRequest } from "./batch-rows.js";
import { cacheRow, type KvCache } from "./kv-cache.js";
import { at, rowOf, type Matrix } from "./matrix.js";

export interface MlaAttentionOperands {
  /** [tokens, numHeads * nopeDim] */
  readonly query: Matrix;
  /** [tokens, numHeads * ropeDim] */
  readonly queryRope: Matrix;
  /** [numHeads * latentDim, nopeDim], W_UK of each head, transposed. */
  readonly keyUp: Matrix;
  /** [numHeads * valueDim, latentDim], W_UV of each head. */
  readonly valueUp: Matrix;
}

export interface MlaAttentionAttributes {
  readonly numHeads: number;
  readonly scale: number;
}

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) in its expanded form: of each row `[c | k]` of the cache, head h
 * has the key `[W_UK[h] c | k]` and the value `W_UV[h] c`. Tokens see positions as in `attention`. With
 * score = [query | queryRope] . key * scale: out = sum(softmax(score) * value).
 */
export function mlaAttention(
  out: Matrix, // [tokens, numHeads * valueDim]
  operands: MlaAttentionOperands,
  cache: KvCache,
  batch: Batch,
  { numHeads, scale }: MlaAttentionAttributes,
): void {
  for (const request of batchRequests(batch)) {
    if (request.start === request.end) continue;
    for (let head = 0; head < numHeads; head++) {
      const { keys, values } = expand(operands, cache, request, { head, numHeads });
      for (let row = request.start; row < request.end; row++) {
        const seen = request.seqLen - (request.end - 1 - row);
        const query = [
          ...headOf(operands.query, row, head, numHeads),
          ...headOf(operands.queryRope, row, head, numHeads),
        ];
        const scores = keys.slice(0, seen).map((key) => dot(query, key) * scale);
        attend(headOf(out, row, head, numHeads), scores, values);
      }
    }
  }
}

/** Keys and values of one head at all positions of a request. */
function expand(
  { keyUp, valueUp }: MlaAttentionOperands,
  cache: KvCache,
  { seqLen, blocks }: BatchRequest,
  { head, numHeads }: { head: number; numHeads: number },
): { keys: Float64Array[]; values: Float64Array[] } {
  const rows = visibleSlots(cache, blocks, seqLen - 1, 0).map((s) => cacheRow(cache, "key", s, 0));
  const latentDim = keyUp.rows / numHeads;
  const valueDim = valueUp.rows / numHeads;
  const keys = rows.map((row) => {
    const key = new Float64Array(keyUp.width + row.length - latentDim);
    for (let l = 0; l < latentDim; l++) {
      const column = rowOf(keyUp, head * latentDim + l);
      for (let d = 0; d < column.length; d++) key[d] = at(key, d) + at(column, d) * at(row, l);
    }
    key.set(row.subarray(latentDim), keyUp.width);
    return key;
  });
  const values = rows.map((row) =>
    Float64Array.from({ length: valueDim }, (_, d) =>
      dot(rowOf(valueUp, head * valueDim + d), row),
    ),
  );
  return { keys, values };
}

function attend(
  out: Float32Array, // [valueDim]
  scores: readonly number[],
  values: readonly Float64Array[],
): void {
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, 0);
  for (let d = 0; d < out.length; d++) {
    out[d] = weights.reduce((sum, weight, i) => sum + weight * at(values[i]!, d), 0) / total;
  }
}

function headOf(x: Matrix, row: number, head: number, numHeads: number): Float32Array {
  const width = x.width / numHeads;
  return rowOf(x, row).subarray(head * width, (head + 1) * width);
}

/** a . b over the columns of a */
function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += at(a, i) * at(b, i);
  return sum;
}
