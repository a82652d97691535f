/** The blocks of one sequence in one KV group. */
export class GroupBlocks {
  /** Physical block of each logical block; entries from the table's `numBlocks` on are the null block. Grows. */
  blocks: Int32Array = new Int32Array(4);
  /** Leading blocks that were given back as they lie behind the group's window; they are the null block. */
  numReleased = 0;

  /** Makes room for logical blocks. */
  reserve(numBlocks: number): void {
    if (numBlocks <= this.blocks.length) return;
    const grown = new Int32Array(Math.max(numBlocks, 2 * this.blocks.length));
    grown.set(this.blocks);
    this.blocks = grown;
  }
}

/** The physical blocks of one sequence, in the order of its tokens. Only the block manager changes it. */
export class BlockTable {
  /** Sequences share cached blocks only where this is equal. */
  readonly cacheSalt: string | undefined;
  /** Tokens that have a slot. */
  numTokens = 0;
  /** Logical blocks in use, the same in all groups. */
  numBlocks = 0;
  /** Leading blocks that can be, or could once be, found by their tokens. */
  numHashedBlocks = 0;
  /** Leading tokens that were found in the prefix cache. */
  numCachedTokens = 0;
  /** Blocks that it may hold without others getting in the way; 0: none were promised. */
  numPromisedBlocks = 0;
  /** One for each KV group of the block manager, from the first block on. */
  readonly groups: GroupBlocks[] = [];

  constructor(cacheSalt?: string) {
    this.cacheSalt = cacheSalt;
  }

  /** Physical blocks that it names, over all groups. */
  get numHeldBlocks(): number {
    let held = 0;
    for (const { numReleased } of this.groups) held += this.numBlocks - numReleased;
    return held;
  }

  /** Blocks that are kept for it, as it was promised more than it holds. */
  get numReservedBlocks(): number {
    if (this.numPromisedBlocks === 0) return 0;
    return Math.max(0, this.numPromisedBlocks - this.numHeldBlocks);
  }

  /** Makes room for logical blocks in each of `numGroups` groups. */
  reserve(numGroups: number, numBlocks: number): void {
    while (this.groups.length < numGroups) this.groups.push(new GroupBlocks());
    for (const group of this.groups) group.reserve(numBlocks);
  }
}
