import { assert } from "../errors.js";
import { hashSalt, hashTokens, type BlockHash } from "./block-hash.js";

/** A change of what prefixes can be found, for observers such as a router. Hashes are opaque. */
export type CacheEvent =
  | {
      readonly type: "stored";
      readonly hash: number;
      /** Undefined for the first block of a sequence. */
      readonly parentHash: number | undefined;
      /** int32 [blockSize], the tokens of the block itself. */
      readonly tokenIds: Int32Array;
      readonly cacheSalt: string | undefined;
      /** KV group whose layers are stored. */
      readonly group: number;
    }
  | { readonly type: "removed"; readonly hash: number; readonly group: number }
  | { readonly type: "cleared" };

export interface PrefixCacheOptions {
  readonly numBlocks: number;
  /** Tokens a block. */
  readonly blockSize: number;
  /** Integer in [0, 2^53 - 1] that hashes start from. Unpredictable, it keeps clients from making collisions. @default 0 */
  readonly hashSeed?: number;
  /** For tests. @default {@link hashTokens} */
  readonly hash?: BlockHash;
  /** Called at once; it must not throw or use the cache. */
  readonly onEvent?: (event: CacheEvent) => void;
}

/** The tokens of one sequence, as blocks. */
export interface PrefixTokens {
  readonly tokenIds: Int32Array;
  readonly cacheSalt: string | undefined;
}

/**
 * One full block of tokens behind one certain prefix. While it is in the cache, no other node stands for the same tokens
 * behind the same prefix, so comparing parents compares whole prefixes.
 */
export interface PrefixNode {
  /** The node of the block before; undefined for the first block of a sequence, and once this node is gone. */
  parent: PrefixNode | undefined;
  /** Set on first blocks only. */
  readonly cacheSalt: string | undefined;
  readonly hash: number;
  /** int32 [blockSize] */
  readonly tokenIds: Int32Array;
  /**
   * Physical blocks that hold its K and V, of all KV groups: several of a group when sequences computed the same tokens at
   * the same time.
   */
  readonly blocks: number[];
  /** Nodes in the cache whose parent it is. */
  numChildren: number;
  /** It is no longer in the cache, and never will be again. */
  isGone: boolean;
  /** Another node with the same hash. */
  next: PrefixNode | undefined;
}

/** Nodes without blocks at most, for each physical block. */
const emptyNodesPerBlock = 8;

/**
 * Finds physical blocks by the tokens that they and all blocks before them hold: automatic prefix caching as in vLLM V1,
 * by a chained hash of (parent, tokens, salt). A hash only proposes a node; its parent and its tokens decide, so that
 * collisions cost time but never give wrong output.
 *
 * A node stands for tokens, and KV groups add their blocks to it. Behind a sliding window, blocks are reused while those
 * that follow can still be found; their nodes stay, empty, as the way to them. The number of empty nodes is bounded: the
 * oldest ones go first, and what follows them can no longer be found.
 *
 * Block tables are append-only: a block whose tokens are cached already is not exchanged for the other, but becomes a
 * further block of the node.
 */
export class PrefixCache {
  readonly #blockSize: number;
  readonly #hash: BlockHash;
  readonly #seed: number;
  readonly #onEvent: ((event: CacheEvent) => void) | undefined;
  /** First node of each hash. */
  readonly #nodes: Map<number, PrefixNode> = new Map();
  /** [numBlocks], the node that each block belongs to, and its KV group there. */
  readonly #nodeOf: (PrefixNode | undefined)[];
  readonly #groupOf: Int32Array;
  /** Nodes that have children but no blocks, oldest first. */
  readonly #empty: Set<PrefixNode> = new Set();
  #numBlocks = 0;

  constructor(options: PrefixCacheOptions) {
    this.#blockSize = options.blockSize;
    this.#hash = options.hash ?? hashTokens;
    this.#seed = options.hashSeed ?? 0;
    this.#onEvent = options.onEvent;
    this.#nodeOf = Array.from({ length: options.numBlocks });
    this.#groupOf = new Int32Array(options.numBlocks);
  }

  /** Blocks that can be found. */
  get numBlocks(): number {
    return this.#numBlocks;
  }

  nodeOf(block: number): PrefixNode | undefined {
    return this.#nodeOf[block];
  }

  /** KV group of a block that has a node. */
  groupOf(block: number): number {
    return this.#groupOf[block]!;
  }

  /** The node of the tokens of logical block `index`, behind `parent` or, without one, at the beginning. */
  find(
    parent: PrefixNode | undefined,
    tokens: PrefixTokens,
    index: number,
  ): PrefixNode | undefined {
    return this.#findHashed(this.#hashOf(parent, tokens, index), parent, tokens, index);
  }

  /**
   * Makes `block` findable: it holds the tokens of logical block `index` for the layers of `group`, is never written again,
   * and belongs to no node.
   */
  add(
    block: number,
    group: number,
    parent: PrefixNode | undefined,
    tokens: PrefixTokens,
    index: number,
  ): void {
    assert(this.#nodeOf[block] === undefined, `block ${block} gets one hash`);
    const hash = this.#hashOf(parent, tokens, index);
    const node =
      this.#findHashed(hash, parent, tokens, index) ?? this.#insert(hash, parent, tokens, index);
    if (!this.#has(node, group)) this.#tellStored(node, group);
    this.#empty.delete(node);
    this.#dropOldest();
    node.blocks.push(block);
    this.#nodeOf[block] = node;
    this.#groupOf[block] = group;
    this.#numBlocks++;
  }

  /** The node of a logical block that no group holds, as the way to those that follow. Some that has a block must. */
  addEmpty(parent: PrefixNode | undefined, tokens: PrefixTokens, index: number): PrefixNode {
    const hash = this.#hashOf(parent, tokens, index);
    const found = this.#findHashed(hash, parent, tokens, index);
    if (found !== undefined) return found;
    const node = this.#insert(hash, parent, tokens, index);
    this.#empty.add(node);
    return node;
  }

  /** The block can no longer be found. */
  remove(block: number): void {
    const node = this.#nodeOf[block];
    if (node === undefined) return;
    this.#nodeOf[block] = undefined;
    this.#numBlocks--;
    node.blocks.splice(node.blocks.indexOf(block), 1);
    const group = this.groupOf(block);
    if (!this.#has(node, group)) this.#onEvent?.({ type: "removed", hash: node.hash, group });
    if (node.blocks.length > 0) return;
    this.#empty.add(node);
    if (node.numChildren === 0) this.#drop(node);
    else this.#dropOldest();
  }

  clear(): void {
    for (const node of this.#all()) node.isGone = true;
    this.#nodes.clear();
    this.#nodeOf.fill(undefined);
    this.#empty.clear();
    this.#numBlocks = 0;
    this.#onEvent?.({ type: "cleared" });
  }

  /** Throws ERR_INTERNAL unless nodes and blocks name each other and all counts are right. For tests. */
  check(): void {
    let numBlocks = 0;
    let numEmpty = 0;
    const numChildren = new Map<PrefixNode, number>();
    for (const node of this.#all()) {
      const { parent, blocks } = node;
      assert(!node.isGone, "a node that can be found is not gone");
      if (parent !== undefined) numChildren.set(parent, (numChildren.get(parent) ?? 0) + 1);
      assert(this.#empty.has(node) === (blocks.length === 0), "empty nodes are listed");
      assert(blocks.length + node.numChildren > 0, "a node has blocks or leads to some");
      if (blocks.length === 0) numEmpty++;
      for (const block of blocks) {
        assert(this.#nodeOf[block] === node, "a node's block names the node");
        numBlocks++;
      }
    }
    for (const node of this.#all()) {
      assert(node.numChildren === (numChildren.get(node) ?? 0), "a node counts its children");
    }
    assert(numEmpty === this.#empty.size, "all empty nodes can be found");
    assert(numBlocks === this.#numBlocks, "the number of cached blocks is that of all nodes");
    for (const node of this.#nodeOf) {
      if (node !== undefined) numBlocks--;
    }
    assert(numBlocks === 0, "every block that names a node is one of its blocks");
  }

  *#all(): Generator<PrefixNode> {
    for (const [hash, first] of this.#nodes) {
      for (let node: PrefixNode | undefined = first; node !== undefined; node = node.next) {
        assert(node.hash === hash, "a node is listed under its hash");
        yield node;
      }
    }
  }

  #has({ blocks }: PrefixNode, group: number): boolean {
    return blocks.some((block) => this.#groupOf[block] === group);
  }

  #hashOf(
    parent: PrefixNode | undefined,
    { tokenIds, cacheSalt }: PrefixTokens,
    index: number,
  ): number {
    const before = parent === undefined ? hashSalt(this.#seed, cacheSalt) : parent.hash;
    const start = index * this.#blockSize;
    return this.#hash(before, tokenIds, start, start + this.#blockSize);
  }

  #findHashed(
    hash: number,
    parent: PrefixNode | undefined,
    { tokenIds, cacheSalt }: PrefixTokens,
    index: number,
  ): PrefixNode | undefined {
    const start = index * this.#blockSize;
    let node = this.#nodes.get(hash);
    for (; node !== undefined; node = node.next) {
      const isSalted = parent !== undefined || node.cacheSalt === cacheSalt;
      if (node.parent === parent && isSalted && equalFrom(tokenIds, start, node.tokenIds)) {
        return node;
      }
    }
    return undefined;
  }

  #insert(
    hash: number,
    parent: PrefixNode | undefined,
    { tokenIds, cacheSalt }: PrefixTokens,
    index: number,
  ): PrefixNode {
    const start = index * this.#blockSize;
    const node: PrefixNode = {
      parent,
      cacheSalt: parent === undefined ? cacheSalt : undefined,
      hash,
      tokenIds: tokenIds.slice(start, start + this.#blockSize),
      blocks: [],
      numChildren: 0,
      isGone: false,
      next: this.#nodes.get(hash),
    };
    if (parent !== undefined) parent.numChildren++;
    this.#nodes.set(hash, node);
    return node;
  }

  #tellStored({ hash, parent, tokenIds, cacheSalt }: PrefixNode, group: number): void {
    const parentHash = parent?.hash;
    this.#onEvent?.({ type: "stored", hash, parentHash, tokenIds, cacheSalt, group });
  }

  /** Removes an empty node, and those before it that now lead nowhere. */
  #drop(node: PrefixNode): void {
    for (let next: PrefixNode | undefined = node; next !== undefined;) {
      this.#unlink(next);
      this.#empty.delete(next);
      next.isGone = true;
      const parent: PrefixNode | undefined = next.parent;
      next.parent = undefined; // nodes that are gone do not keep each other from being collected
      if (parent !== undefined) parent.numChildren--;
      next = parent?.numChildren === 0 && this.#empty.has(parent) ? parent : undefined;
    }
  }

  /** Removes empty nodes, oldest first, while they are too many. */
  #dropOldest(): void {
    for (const node of this.#empty) {
      if (this.#empty.size <= emptyNodesPerBlock * this.#nodeOf.length) return;
      this.#drop(node);
    }
  }

  #unlink(node: PrefixNode): void {
    let before = this.#nodes.get(node.hash);
    if (before === node) {
      if (node.next === undefined) this.#nodes.delete(node.hash);
      else this.#nodes.set(node.hash, node.next);
      return;
    }
    while (before!.next !== node) before = before!.next;
    before!.next = node.next;
  }
}

function equalFrom(tokenIds: Int32Array, start: number, expected: Int32Array): boolean {
  for (let i = 0; i < expected.length; i++) {
    if (tokenIds[start + i] !== expected[i]) return false;
  }
  return true;
}
