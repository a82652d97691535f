import type { KvGroup } from "../graph/plan.js";
import { nullBlock } from "./block-pool.js";
import type { BlockStore } from "./block-store.js";
import type { BlockTable } from "./block-table.js";
import type { PrefixCache, PrefixNode, PrefixTokens } from "./prefix-cache.js";
import { emptyPrefix, findLongestPrefix, type CachedPrefix } from "./prefix-lookup.js";

/** Whoever has tokens; a view that is asked for only when it is needed. */
export interface TokenSource {
  /** int32 [at least as many as are computed] */
  readonly tokenIds: Int32Array;
  /**
   * Where the block manager keeps what it found, so that it hashes and compares each block once, however often it looks the
   * tokens up. Empty at first; only for tokens that do not change and have one salt.
   */
  readonly prefixNodes?: PrefixNode[];
}

/** What block tables share by their tokens: full blocks that were computed, found by those who have the same tokens. */
export class PrefixSharing {
  readonly #kvGroups: readonly KvGroup[];
  readonly #blockSize: number;
  readonly #store: BlockStore;
  readonly #prefixes: PrefixCache;
  readonly #isOn: boolean;
  #numQueriedTokens = 0;
  #numHitTokens = 0;

  constructor(
    kvGroups: readonly KvGroup[],
    blockSize: number,
    store: BlockStore,
    { isOn }: { readonly isOn: boolean },
  ) {
    this.#kvGroups = kvGroups;
    this.#blockSize = blockSize;
    this.#store = store;
    this.#prefixes = store.prefixes;
    this.#isOn = isOn;
  }

  get statistics(): { readonly queriedTokens: number; readonly hitTokens: number } {
    return { queriedTokens: this.#numQueriedTokens, hitTokens: this.#numHitTokens };
  }

  recordLookup(numTokens: number, numHitTokens: number): void {
    if (!this.#isOn) return;
    this.#numQueriedTokens += numTokens;
    this.#numHitTokens += numHitTokens;
  }

  find(source: TokenSource, cacheSalt: string | undefined): CachedPrefix {
    if (!this.#isOn || this.#prefixes.numBlocks === 0) return emptyPrefix(this.#kvGroups.length);
    const { tokenIds, prefixNodes = [] } = source;
    const tokens = { tokenIds, cacheSalt };
    return findLongestPrefix(tokens, prefixNodes, this.#kvGroups, this.#blockSize, this.#store);
  }

  /** Blocks that are full with the first `numTokens` tokens can be found from now on. */
  add(table: BlockTable, source: TokenSource, numTokens: number): void {
    const numFull = Math.floor(numTokens / this.#blockSize);
    if (!this.#isOn || table.numHashedBlocks >= numFull) return;
    const { cacheSalt } = table;
    this.#addBlocks(table, { tokenIds: source.tokenIds, cacheSalt }, numFull);
  }

  /** The table's blocks can no longer be found. */
  forget(table: BlockTable): void {
    for (const { blocks } of table.groups) {
      for (let i = 0; i < table.numBlocks; i++) this.#prefixes.remove(blocks[i]!);
    }
  }

  /** Stops where the block before is not in the cache: nobody could find what follows. */
  #addBlocks(table: BlockTable, tokens: PrefixTokens, numFull: number): void {
    let lead = this.#addLead(table, tokens, numFull);
    while (table.numHashedBlocks < numFull) {
      const index = table.numHashedBlocks;
      const parent = lead ?? (index === 0 ? undefined : this.#nodeAt(table, index - 1));
      lead = undefined;
      if (index > 0 && parent === undefined) return;
      for (const [group, { blocks }] of table.groups.entries()) {
        const block = blocks[index]!;
        if (block === nullBlock || this.#prefixes.nodeOf(block) !== undefined) continue;
        this.#prefixes.add(block, group, parent, tokens, index);
      }
      table.numHashedBlocks++;
    }
  }

  /**
   * The way to the first block of a table that was prepared without those before, in any group. Returns the last node of
   * it; undefined where the table begins with a block.
   */
  #addLead(table: BlockTable, tokens: PrefixTokens, numFull: number): PrefixNode | undefined {
    if (table.numHashedBlocks > 0) return undefined;
    const numLead = Math.min(...table.groups.map(({ numReleased }) => numReleased));
    if (numLead >= numFull) return undefined;
    let node: PrefixNode | undefined;
    while (table.numHashedBlocks < numLead) {
      node = this.#prefixes.addEmpty(node, tokens, table.numHashedBlocks++);
    }
    return node;
  }

  /** The node of logical block `index`; undefined where no group's block is cached, or all were given back. */
  #nodeAt(table: BlockTable, index: number): PrefixNode | undefined {
    for (const { blocks } of table.groups) {
      const node = this.#prefixes.nodeOf(blocks[index]!);
      if (node !== undefined) return node;
    }
    return undefined;
  }
}
