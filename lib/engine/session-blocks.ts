import type { BlockManager, BlockTable } from "../cache/block-manager.js";
import type { Executor } from "./executor.js";
import { blocksPerTransfer } from "./kv-transfer.js";
import { rechunk } from "./rechunk.js";
import type { SessionUsage } from "./session-types.js";

/** K and V of the first tokens of a context. */
export interface CachedBytes {
  readonly numTokens: number;
  readonly numBlocks: number;
  /** `numBlocks * kvBlockBytes` */
  readonly bytes: AsyncIterable<Uint8Array>;
}

/** The K and V of sessions: kept in the cache, and moved to files and back. */
export class SessionBlocks {
  readonly #blocks: BlockManager;
  readonly #executor: Executor;

  constructor(blocks: BlockManager, executor: Executor) {
    this.#blocks = blocks;
    this.#executor = executor;
  }

  /** Keeps what is cached of these tokens until it is given up, or others need the blocks. */
  keep(tokenIds: Int32Array, cacheSalt: string | undefined): BlockTable {
    return this.#blocks.pin(tokenIds, cacheSalt);
  }

  giveUp(pin: BlockTable): void {
    this.#blocks.unpin(pin);
  }

  usage(pin: BlockTable): Omit<SessionUsage, "tokens"> {
    const { blocks, sharedBlocks } = this.#blocks.usage(pin);
    const memory = blocks * this.#executor.kvBlockBytes;
    return { cachedTokens: pin.numTokens, blocks, sharedBlocks, memory };
  }

  /** Calls `use` with what is cached of these tokens; nobody gets the blocks meanwhile. */
  async read(
    tokenIds: Int32Array,
    cacheSalt: string | undefined,
    use: (cached: CachedBytes) => Promise<void>,
  ): Promise<void> {
    const table = this.#blocks.hold(tokenIds, cacheSalt);
    try {
      const blocks = this.#blocks.blocksOf(table);
      const bytes = this.#bytesOf(blocks);
      await use({ numTokens: table.numTokens, numBlocks: blocks.length, bytes });
    } finally {
      this.#blocks.free(table);
    }
  }

  /**
   * Fills the cache with what `read` gave for these tokens. Nothing is read where it holds them already, or has no room
   * for them, or where there are not as many blocks as these tokens take.
   */
  async write(
    tokenIds: Int32Array,
    cacheSalt: string | undefined,
    { numTokens, numBlocks, bytes }: CachedBytes,
  ): Promise<void> {
    const table = this.#blocks.prepare(tokenIds.subarray(0, numTokens), cacheSalt);
    if (table === undefined) return;
    try {
      const blocks = this.#blocks.blocksOf(table);
      if (blocks.length !== numBlocks) return;
      await this.#writeAll(blocks, bytes);
      this.#blocks.markComputed(table, { tokenIds }, numTokens);
    } finally {
      this.#blocks.free(table);
    }
  }

  async *#bytesOf(blocks: Int32Array): AsyncGenerator<Uint8Array, void, void> {
    const step = blocksPerTransfer(this.#executor.kvBlockBytes);
    for (let at = 0; at < blocks.length; at += step) {
      yield await this.#executor.readBlocks(blocks.subarray(at, at + step));
    }
  }

  async #writeAll(blocks: Int32Array, bytes: AsyncIterable<Uint8Array>): Promise<void> {
    const { kvBlockBytes } = this.#executor;
    let at = 0;
    for await (const chunk of rechunk(bytes, blocksPerTransfer(kvBlockBytes) * kvBlockBytes)) {
      const count = chunk.length / kvBlockBytes;
      await this.#executor.writeBlocks(blocks.subarray(at, at + count), chunk);
      at += count;
    }
  }
}
