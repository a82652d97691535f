import { createHash } from "node:crypto";
import { argumentError } from "../errors.js";
import { shapeText } from "../graph/kv-groups.js";
import type { Plan } from "../graph/plan.js";
import type { KvCacheOptions } from "../native.js";
import type { Executor } from "./executor.js";

/** To be raised whenever a change of the engine makes bytes of older K and V unusable: their layout, or their values. */
const layoutVersion = 1;

/** What one call of `readBlocks` or `writeBlocks` may move, in bytes; native/kv-transfer.h has the same figure. */
const maxTransferBytes = 4 * 2 ** 20;

/** What decides the bits of K and V, beside the model itself. */
export interface KvLayoutInput {
  readonly backend: string;
  /** Kernels of other instruction sets round in another order. */
  readonly isa: string;
  readonly plan: Pick<Plan, "kvGroups" | "kvLayers" | "weights">;
  readonly kv: Omit<KvCacheOptions, "numBlocks">;
}

/**
 * A text that is equal exactly where two engines of one model may exchange the bytes of KV blocks, and go on as if each had
 * computed them itself. For example `v1 cpu/avx512, weights bf16+f32, constants 0f1e2d3c, kv bf16, blocks of 16, layers 30*(4x64)`.
 */
export function kvLayout({ backend, isa, plan, kv }: KvLayoutInput): string {
  const device = isa === "" ? backend : `${backend}/${isa}`;
  const weights = [...new Set(plan.weights.map(({ dtype }) => dtype))].sort().join("+");
  const layers = runLengths(plan.kvLayers.map(shapeText));
  const windows = runLengths(plan.kvGroups.map(({ slidingWindow }) => `window ${slidingWindow}`));
  const groups = plan.kvGroups.length === 1 ? "" : `, groups ${windows}`;
  const constants = `constants ${digestOfConstants(plan)}`;
  return `v${layoutVersion} ${device}, weights ${weights}, ${constants}, kv ${kv.dtype}, blocks of ${kv.blockSize}, layers ${layers}${groups}`;
}

/** Of what no file holds: frequencies of the rotary embedding, which may depend on options. */
function digestOfConstants({ weights }: Pick<Plan, "weights">): string {
  const hash = createHash("sha256");
  for (const { source } of weights) if ("data" in source) hash.update(source.data);
  return hash.digest("hex").slice(0, 8);
}

/** `a a b` becomes `2*(a)+1*(b)`. */
function runLengths(items: readonly string[]): string {
  const runs: { item: string; count: number }[] = [];
  for (const item of items) {
    const last = runs.at(-1);
    if (last?.item === item) last.count++;
    else runs.push({ item, count: 1 });
  }
  return runs.map(({ item, count }) => `${count}*(${item})`).join("+");
}

/** Blocks that one call of `readBlocks` or `writeBlocks` takes: 4 MiB of them, at least one. */
export function blocksPerTransfer(kvBlockBytes: number): number {
  return Math.max(1, Math.floor(maxTransferBytes / Math.max(1, kvBlockBytes)));
}

/** @throws ERR_ARGUMENT unless `blocks` are physical blocks that one call may read */
export function validateReadBlocks(
  blocks: Int32Array,
  executor: Pick<Executor, "limits" | "kvBlockBytes">,
): void {
  checkBlocks(blocks, 0, executor);
}

/** @throws ERR_ARGUMENT unless one call may write `bytes` into `blocks`; the null block is never written */
export function validateWriteBlocks(
  blocks: Int32Array,
  bytes: Uint8Array,
  executor: Pick<Executor, "limits" | "kvBlockBytes">,
): void {
  checkBlocks(blocks, 1, executor);
  const length = blocks.length * executor.kvBlockBytes;
  if (bytes instanceof Uint8Array && bytes.length === length) return;
  throw argumentError("bytes", `a Uint8Array of ${length} bytes`, bytes?.length);
}

function checkBlocks(
  blocks: Int32Array,
  lowest: number,
  { limits, kvBlockBytes }: Pick<Executor, "limits" | "kvBlockBytes">,
): void {
  const most = blocksPerTransfer(kvBlockBytes);
  if (!(blocks instanceof Int32Array) || blocks.length > most) {
    throw argumentError("blocks", `an Int32Array of at most ${most} blocks`, blocks?.length);
  }
  const last = limits.numBlocks - 1;
  const bad = blocks.findIndex((block) => block < lowest || block > last);
  if (bad < 0) return;
  throw argumentError(`blocks[${bad}]`, `an integer in [${lowest}, ${last}]`, blocks[bad]);
}
