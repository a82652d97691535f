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
    }
  | { readonly type: "removed"; readonly hash: number }
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

/**
 * One full block of tokens behind one certain prefix. While it is in the cache, no other node stands for the same tokens
 * behind the same prefix, so comparing ids of parents compares whole prefixes.
 */
export interface PrefixNode {
  /** Never reused. */
  readonly id: number;
  /** The node of the block before; 0 for the first block of a sequence. */
  readonly parentId: number;
  /** Set on first blocks only. */
  readonly cacheSalt: string | undefined;
  readonly hash: number;
  /** int32 [blockSize] */
  readonly tokenIds: Int32Array;
  /** Physical blocks that hold its K and V: several when sequences computed the same tokens at the same time. */
  readonly blocks: number[];
  /** Another node with the same hash. */
  next: PrefixNode | undefined;
}

/**
 * Finds physical blocks by the tokens that they and all blocks before them hold: automatic prefix caching as in vLLM V1,
 * by a chained hash of (parent, tokens, salt). A hash only proposes a node; its parent and its tokens decide, so that
 * collisions cost time but never give wrong output.
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
  /** [numBlocks], the node that each block belongs to. */
  readonly #nodeOf: (PrefixNode | undefined)[];
  #numBlocks = 0;
  #numNodes = 0;

  constructor(options: PrefixCacheOptions) {
    this.#blockSize = options.blockSize;
    this.#hash = options.hash ?? hashTokens;
    this.#seed = options.hashSeed ?? 0;
    this.#onEvent = options.onEvent;
    this.#nodeOf = Array.from({ length: options.numBlocks });
  }

  /** Blocks that can be found. */
  get numBlocks(): number {
    return this.#numBlocks;
  }

  nodeOf(block: number): PrefixNode | undefined {
    return this.#nodeOf[block];
  }

  /** The node of the tokens from `start` on, behind `parent` or, without one, at the beginning. */
  find(
    parent: PrefixNode | undefined,
    tokenIds: Int32Array,
    start: number,
    cacheSalt: string | undefined,
  ): PrefixNode | undefined {
    return this.#findHashed(
      this.#hashOf(parent, tokenIds, start, cacheSalt),
      parent,
      tokenIds,
      start,
      cacheSalt,
    );
  }

  /** Makes `block` findable: it holds the tokens from `start` on, is never written again, and belongs to no node. */
  add(
    block: number,
    parent: PrefixNode | undefined,
    tokenIds: Int32Array,
    start: number,
    cacheSalt: string | undefined,
  ): void {
    assert(this.#nodeOf[block] === undefined, `block ${block} gets one hash`);
    const hash = this.#hashOf(parent, tokenIds, start, cacheSalt);
    const node =
      this.#findHashed(hash, parent, tokenIds, start, cacheSalt) ??
      this.#insert(hash, parent, tokenIds.slice(start, start + this.#blockSize), cacheSalt);
    node.blocks.push(block);
    this.#nodeOf[block] = node;
    this.#numBlocks++;
  }

  /** The block can no longer be found. */
  remove(block: number): void {
    const node = this.#nodeOf[block];
    if (node === undefined) return;
    this.#nodeOf[block] = undefined;
    this.#numBlocks--;
    node.blocks.splice(node.blocks.indexOf(block), 1);
    if (node.blocks.length > 0) return;
    this.#unlink(node);
    this.#onEvent?.({ type: "removed", hash: node.hash });
  }

  clear(): void {
    this.#nodes.clear();
    this.#nodeOf.fill(undefined);
    this.#numBlocks = 0;
    this.#onEvent?.({ type: "cleared" });
  }

  /** Throws ERR_INTERNAL unless nodes and blocks name each other and hashes are those of the tokens. For tests. */
  check(): void {
    let numBlocks = 0;
    for (const [hash, first] of this.#nodes) {
      for (let node: PrefixNode | undefined = first; node !== undefined; node = node.next) {
        assert(node.hash === hash, "a node is listed under its hash");
        assert(node.blocks.length > 0, "a node that can be found has a block");
        for (const block of node.blocks) {
          assert(this.#nodeOf[block] === node, "a node's block names the node");
          numBlocks++;
        }
      }
    }
    assert(numBlocks === this.#numBlocks, "the number of cached blocks is that of all nodes");
    for (const node of this.#nodeOf) {
      if (node !== undefined) numBlocks--;
    }
    assert(numBlocks === 0, "every block that names a node is one of its blocks");
  }

  #hashOf(
    parent: PrefixNode | undefined,
    tokenIds: Int32Array,
    start: number,
    cacheSalt: string | undefined,
  ): number {
    const before = parent === undefined ? hashSalt(this.#seed, cacheSalt) : parent.hash;
    return this.#hash(before, tokenIds, start, start + this.#blockSize);
  }

  #findHashed(
    hash: number,
    parent: PrefixNode | undefined,
    tokenIds: Int32Array,
    start: number,
    cacheSalt: string | undefined,
  ): PrefixNode | undefined {
    const parentId = parent?.id ?? 0;
    let node = this.#nodes.get(hash);
    for (; node !== undefined; node = node.next) {
      const isBehind = node.parentId === parentId;
      const isSalted = parentId !== 0 || node.cacheSalt === cacheSalt;
      if (isBehind && isSalted && equalFrom(tokenIds, start, node.tokenIds)) return node;
    }
    return undefined;
  }

  #insert(
    hash: number,
    parent: PrefixNode | undefined,
    tokenIds: Int32Array,
    cacheSalt: string | undefined,
  ): PrefixNode {
    const isFirst = parent === undefined;
    const node: PrefixNode = {
      id: ++this.#numNodes,
      parentId: parent?.id ?? 0,
      cacheSalt: isFirst ? cacheSalt : undefined,
      hash,
      tokenIds,
      blocks: [],
      next: this.#nodes.get(hash),
    };
    this.#nodes.set(hash, node);
    this.#onEvent?.({ type: "stored", hash, parentHash: parent?.hash, tokenIds, cacheSalt });
    return node;
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
