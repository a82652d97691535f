import type { KvGroup, KvLayer, KvShape } from "./plan.js";

/** An attention layer before it has a place in the KV cache. */
export interface WindowedLayer extends KvShape {
  /** Tokens, 0: none. */
  readonly slidingWindow: number;
}

/**
 * Puts layers into KV groups, as the hybrid KV cache manager of vLLM does: the layers of each kind (those with one window)
 * are cut into groups of L, and the j-th layer of every group uses slot j. A block of the pool is memory in all L slots,
 * whoever takes it. A group that has fewer than L layers leaves slots unused; see {@link layersPerGroup}.
 *
 * All layers of a slot must be alike. Where layers of different kinds are not, all are in one group without a window,
 * each with a slot of its own: then no block is given back while a sequence runs.
 */
export function groupKvLayers(layers: readonly WindowedLayer[]): {
  kvGroups: KvGroup[];
  kvLayers: KvLayer[];
} {
  const kinds = new Map<number, number[]>();
  for (const [layer, { slidingWindow }] of layers.entries()) {
    const members = kinds.get(slidingWindow);
    if (members === undefined) kinds.set(slidingWindow, [layer]);
    else members.push(layer);
  }
  const alike = layers.every((layer) => sameShape(layer, layers[0]!));
  if (kinds.size === 0 || (kinds.size > 1 && !alike)) return oneGroup(layers);
  const perGroup = layersPerGroup([...kinds.values()].map(({ length }) => length));
  const kvGroups: KvGroup[] = [];
  const kvLayers: KvLayer[] = [];
  for (const [slidingWindow, members] of kinds) {
    for (const [i, layer] of members.entries()) {
      const slot = i % perGroup;
      if (slot === 0) kvGroups.push({ slidingWindow });
      kvLayers[layer] = { ...shapeOf(layers[layer]!), group: kvGroups.length - 1, slot };
    }
  }
  return { kvGroups, kvLayers };
}

/**
 * L: the fewest layers of a kind, so that this kind needs one group, or the most if they are fewer than 5/4 of that. Larger
 * groups would leave slots of the small kind unused in every block, smaller ones only make more block tables. At most
 * L - 1 slots a kind are unused, and beyond the window a token never takes more memory than without groups.
 */
function layersPerGroup(counts: readonly number[]): number {
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  return most < 1.25 * fewest ? most : fewest;
}

function oneGroup(layers: readonly WindowedLayer[]): { kvGroups: KvGroup[]; kvLayers: KvLayer[] } {
  const kvLayers = layers.map((layer, slot) => ({ ...shapeOf(layer), group: 0, slot }));
  return { kvGroups: [{ slidingWindow: 0 }], kvLayers };
}

function sameShape(a: KvShape, b: KvShape): boolean {
  return a.numKvHeads === b.numKvHeads && a.headDim === b.headDim && a.latentDim === b.latentDim;
}

/** The shape alone, of something that has more. */
function shapeOf({ numKvHeads, headDim, latentDim }: KvShape): KvShape {
  return { numKvHeads, headDim, ...(latentDim !== undefined && { latentDim }) };
}

/** Elements that one token takes. */
export function elementsPerToken({ numKvHeads, headDim, latentDim }: KvShape): number {
  return latentDim === undefined ? 2 * numKvHeads * headDim : headDim;
}

/** For example `4x64`, or `512+64` of a latent cache. */
export function shapeText({ numKvHeads, headDim, latentDim }: KvShape): string {
  return latentDim === undefined
    ? `${numKvHeads}x${headDim}`
    : `${latentDim}+${headDim - latentDim}`;
}

/** The memory of a plan's KV cache: what one layer stores, for each slot. */
export function kvSlots({ kvLayers }: { readonly kvLayers: readonly KvLayer[] }): KvShape[] {
  const slots: KvShape[] = [];
  for (const layer of kvLayers) slots[layer.slot] = shapeOf(layer);
  return slots;
}
