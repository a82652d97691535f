/** The physical blocks of one sequence, in the order of its tokens. Only the block manager changes it. */
export class BlockTable {
  /** Sequences share cached blocks only where this is equal. */
  readonly cacheSalt: string | undefined;
  /** Tokens that have a slot. */
  numTokens = 0;
  /** Logical blocks in use. */
  numBlocks = 0;
  /** Leading blocks that were given back as they lie behind the sliding window; they are the null block. */
  numReleasedBlocks = 0;
  /** Leading blocks that can be, or could once be, found by their tokens. */
  numHashedBlocks = 0;
  /** Leading tokens that were found in the prefix cache. */
  numCachedTokens = 0;
  /** Physical block of each logical block; entries from `numBlocks` on are the null block. Grows. */
  blocks: Int32Array = new Int32Array(4);

  constructor(cacheSalt?: string) {
    this.cacheSalt = cacheSalt;
  }

  /** Makes room for logical blocks. */
  reserve(numBlocks: number): void {
    if (numBlocks <= this.blocks.length) return;
    const grown = new Int32Array(Math.max(numBlocks, 2 * this.blocks.length));
    grown.set(this.blocks);
    this.blocks = grown;
  }
}
