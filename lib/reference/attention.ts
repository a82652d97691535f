import type { StepInput } from "../engine/step.js";
import { cacheRow, type KvCache } from "./kv-cache.js";
import { at, dot, rowOf, type Matrix } from "./matrix.js";

export interface AttentionAttributes {
  readonly numHeads: number;
  readonly scale: number;
  /** Tokens, 0: none. */
  readonly slidingWindow: number;
  /** 0: none. */
  readonly softcap: number;
  /** [numHeads], one more score of each head, without a value. */
  readonly sinks?: Float32Array | undefined;
}

type Batch = Pick<StepInput, "queryStartLoc" | "seqLens" | "blockTable" | "maxBlocks">;

/**
 * Causal paged attention. Token j of request r, of q tokens in this step, has position p = seqLens[r] - q + j and sees the
 * positions max(0, p - slidingWindow + 1) .. p. Query head h uses KV head h / (numHeads / numKvHeads). With
 * score = q . k * scale, capped to softcap * tanh(score / softcap): out = sum(softmax(score) * v). A sink takes its share
 * in the softmax and gives nothing.
 */
export function attention(
  out: Matrix, // [tokens, numHeads * headDim]
  query: Matrix, // [tokens, numHeads * headDim]
  cache: KvCache,
  batch: Batch,
  attributes: AttentionAttributes,
): void {
  for (let request = 0; request < batch.seqLens.length; request++) {
    const end = at(batch.queryStartLoc, request + 1);
    const blocks = batch.blockTable.subarray(
      request * batch.maxBlocks,
      (request + 1) * batch.maxBlocks,
    );
    for (let token = at(batch.queryStartLoc, request); token < end; token++) {
      const position = at(batch.seqLens, request) - (end - token);
      attendToken(rowOf(out, token), rowOf(query, token), cache, blocks, position, attributes);
    }
  }
}

function attendToken(
  out: Float32Array, // [numHeads * headDim]
  query: Float32Array, // [numHeads * headDim]
  cache: KvCache,
  blocks: Int32Array,
  position: number,
  attributes: AttentionAttributes,
): void {
  const slots = visibleSlots(cache, blocks, position, attributes.slidingWindow);
  const groupSize = attributes.numHeads / cache.numKvHeads;
  for (let head = 0; head < attributes.numHeads; head++) {
    const columns = [head * cache.headDim, (head + 1) * cache.headDim] as const;
    const kvHead = Math.floor(head / groupSize);
    const { scale, softcap, sinks } = attributes;
    attendHead(out.subarray(...columns), query.subarray(...columns), cache, kvHead, slots, {
      scale,
      softcap,
      sink: sinks === undefined ? -Infinity : at(sinks, head),
    });
  }
}

/** Slots of the positions that a token at `position` sees, oldest first. */
export function visibleSlots(
  cache: KvCache,
  blocks: Int32Array,
  position: number,
  window: number,
): number[] {
  const slots: number[] = [];
  for (let p = window > 0 ? Math.max(0, position - window + 1) : 0; p <= position; p++) {
    const block = at(blocks, Math.floor(p / cache.blockSize));
    slots.push(block * cache.blockSize + (p % cache.blockSize));
  }
  return slots;
}

function attendHead(
  out: Float32Array, // [headDim]
  query: Float32Array, // [headDim]
  cache: KvCache,
  kvHead: number,
  slots: readonly number[],
  { scale, softcap, sink }: { scale: number; softcap: number; sink: number },
): void {
  const scores = slots.map((slot) => {
    const score = dot(query, cacheRow(cache, "key", slot, kvHead)) * scale;
    return softcap > 0 ? softcap * Math.tanh(score / softcap) : score;
  });
  const max = scores.reduce((a, b) => Math.max(a, b), sink);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, Math.exp(sink - max));
  const sums = new Float64Array(out.length);
  for (const [i, slot] of slots.entries()) {
    const value = cacheRow(cache, "value", slot, kvHead);
    for (let d = 0; d < sums.length; d++) sums[d] = at(sums, d) + at(weights, i) * at(value, d);
  }
  for (let d = 0; d < sums.length; d++) out[d] = at(sums, d) / total;
}
