import {
  BlockManager,
  BlockTable,
  type BlockManagerOptions,
} from "../../lib/cache/block-manager.js";
import type { PrefixNode } from "../../lib/cache/prefix-cache.js";

/** A choice in [0, below). */
export type Choose = (below: number) => number;

export const maxSequences = 5;
const maxTokens = 40;
/** Tokens of a sequence in one step. */
const maxChunk = 7;

/** A sequence as a scheduler would drive it. */
interface Client {
  readonly tokenIds: Int32Array;
  /** [maxTokens], a number for the tokens up to each position: what K and V depend on. */
  readonly fingerprints: Int32Array;
  numTokens: number;
  numComputed: number;
  /** Tokens of the step that is being made. */
  numScheduled: number;
  isAborted: boolean;
  table: BlockTable;
  readonly prefixNodes: PrefixNode[];
}

/**
 * Drives a real block manager by arbitrary operations, with a model of the cache's contents beside it: each slot holds the
 * fingerprint of the token that was last written there, of all tokens before it and of the KV group. So a block that is
 * shared wrongly, reused too early, not copied, or found for other tokens or another group, shows as a wrong fingerprint.
 */
export class BlockMachine {
  readonly blocks: BlockManager;
  readonly clients: Client[] = [];
  readonly #slots: Int32Array;
  readonly #blockSize: number;
  /** Of each KV group. */
  readonly #windows: readonly number[];
  readonly #pins: BlockTable[] = [];

  constructor(options: BlockManagerOptions) {
    this.blocks = new BlockManager(options);
    this.#blockSize = options.blockSize;
    this.#windows = (options.kvGroups ?? [{ slidingWindow: 0 }]).map(
      ({ slidingWindow }) => slidingWindow || Infinity,
    );
    this.#slots = new Int32Array(options.numBlocks * options.blockSize);
    for (let i = 0; i < maxSequences; i++) this.clients.push(newClient());
  }

  /** One operation, then all invariants. */
  apply(choose: Choose): void {
    const client = this.clients[choose(maxSequences)]!;
    switch (choose(14)) {
      case 0:
      case 1:
      case 2:
        this.#begin(client, choose);
        break;
      case 3:
      case 4:
      case 5:
        this.#schedule(client, 1 + choose(maxChunk), choose);
        break;
      case 6:
        this.#fork(client, this.clients[choose(maxSequences)]!, choose);
        break;
      case 7:
        this.#abort(client);
        break;
      case 8:
        this.#preempt(client);
        break;
      case 9:
        this.#pinOrReset(client, choose(7));
        break;
      case 10:
        this.#promise(client);
        break;
      default:
        this.#step();
    }
    this.blocks.check(this.clients.map(({ table }) => table));
  }

  /** Everything is given back. */
  finish(): void {
    this.#step();
    for (const client of this.clients) this.#abort(client);
    for (const pin of this.#pins) this.blocks.unpin(pin);
    this.blocks.check([]);
    if (this.blocks.numFreeBlocks !== this.blocks.numUsableBlocks) throw new Error("a leak");
    if (this.blocks.numSharedBlocks !== 0) throw new Error("shared by nobody");
  }

  /** A new prompt of few different tokens, so that many begin alike; it starts behind what is cached. */
  #begin(client: Client, choose: Choose): void {
    if (client.numTokens > 0) return;
    client.table = new BlockTable(choose(8) === 0 ? "salt" : undefined);
    const length = 1 + choose(14);
    for (let i = 0; i < length; i++) append(client, choose(6) === 0 ? 1 : 0);
    this.#resume(client);
  }

  #resume(client: Client): void {
    const { prefixNodes } = client;
    const tokens = { tokenIds: client.tokenIds.subarray(0, client.numTokens), prefixNodes };
    const prefix = this.blocks.findPrefix(tokens, client.table.cacheSalt);
    if (prefix.numTokens >= client.numTokens) throw new Error("one token is left to compute");
    const free = this.blocks.numFreeBlocks;
    if (prefix.numFreeBlocks > free) return; // free blocks were promised to others
    this.blocks.adopt(client.table, prefix);
    if (this.blocks.numFreeBlocks !== free - prefix.numFreeBlocks)
      throw new Error("a prefix takes as many free blocks as it says");
    client.numComputed = prefix.numTokens;
    this.#verify(client);
  }

  #schedule(client: Client, count: number, choose: Choose): void {
    if (client.numTokens === 0 || client.numScheduled > 0) return;
    if (client.numTokens + count > maxTokens) return;
    while (client.numTokens < client.numComputed + count) append(client, choose(2));
    const { table } = client;
    const free = this.blocks.numFreeBlocks;
    const needed = this.blocks.blocksNeeded(table, count);
    const isPromised = table.numPromisedBlocks > 0;
    const isAllocated = this.blocks.allocate(table, count);
    if (isPromised && !isAllocated) throw new Error("a promise is kept");
    if (!isPromised && isAllocated !== needed <= free)
      throw new Error("allocates exactly what fits");
    if (isAllocated) client.numScheduled = count;
    else if (this.blocks.numFreeBlocks !== free) throw new Error("changes nothing when short");
  }

  /** Whatever it schedules from now on must fit. */
  #promise({ table, numTokens }: Client): void {
    if (numTokens === 0 || table.numBlocks > 0 || table.numPromisedBlocks > 0) return;
    const free = this.blocks.numFreeBlocks;
    const peak = this.blocks.peakBlocks(maxTokens, maxChunk);
    if (this.blocks.promise(table, peak) !== peak <= free) throw new Error("promises what fits");
  }

  #fork(parent: Client, child: Client, choose: Choose): void {
    if (parent.numTokens === 0 || parent.numScheduled > 0 || child.numTokens > 0) return;
    const kept = parent.numComputed - choose(Math.min(4, parent.numComputed + 1));
    if (parent.table.numPromisedBlocks > 0 || !this.blocks.canFork(parent.table, kept)) return;
    child.table = new BlockTable(parent.table.cacheSalt);
    const free = this.blocks.numFreeBlocks;
    this.blocks.fork(parent.table, child.table, kept);
    if (this.blocks.numFreeBlocks !== free) throw new Error("a fork takes no block");
    for (let i = 0; i < kept; i++) append(child, parent.tokenIds[i]!);
    append(child, choose(2));
    child.numComputed = kept;
    this.#verify(child);
  }

  /** Blocks that the step writes are given back once it is over. */
  #abort(client: Client): void {
    if (client.numScheduled > 0) client.isAborted = true;
    else this.#drop(client);
  }

  /** Its blocks go, its tokens stay. The scheduler never preempts what it has scheduled; the manager allows it. */
  #preempt(client: Client): void {
    if (client.numTokens === 0) return;
    client.numScheduled = 0;
    client.numComputed = 0;
    this.blocks.free(client.table);
    this.#resume(client);
  }

  #pinOrReset(client: Client, what: number): void {
    if (what === 0) this.blocks.resetPrefixCache();
    else if (what === 1) this.blocks.forget(client.table);
    else if (what === 2) for (const pin of this.#pins.splice(0)) this.blocks.unpin(pin);
    else if (what === 3) this.blocks.unpinOldest();
    else if (what === 4) this.#restore(client);
    else this.#pins.push(this.blocks.pin(client.tokenIds.subarray(0, client.numTokens)));
  }

  /** Fills the cache with the client's whole blocks, as from a file. */
  #restore({ tokenIds, fingerprints, numTokens, table }: Client): void {
    const count = numTokens - (numTokens % this.#blockSize);
    const restored = this.blocks.prepare(tokenIds.subarray(0, count), table.cacheSalt);
    if (restored === undefined) return;
    for (const [group, window] of this.#windows.entries()) {
      const first = Math.max(0, count - window + 1);
      for (let p = first - (first % this.#blockSize); p < count; p++) {
        this.#slots[this.blocks.slot(restored, p, group)] = fingerprints[p]! ^ group;
      }
    }
    this.blocks.markComputed(restored, { tokenIds }, count);
    this.blocks.check([...this.clients.map((client) => client.table), restored]);
    this.blocks.free(restored);
  }

  /** Copies first, then all writes; then the step is over. */
  #step(): void {
    const size = this.#blockSize;
    const copies = this.blocks.takeCopies();
    for (let i = 0; i < copies.length; i += 2) {
      const [from, to] = [copies[i]! * size, copies[i + 1]! * size];
      this.#slots.copyWithin(to, from, from + size);
    }
    for (const client of this.clients) this.#write(client);
    this.blocks.finishStep();
    for (const client of this.clients) this.#commit(client);
    for (const client of this.clients) this.#verify(client);
  }

  #write({ table, fingerprints, numComputed, numScheduled }: Client): void {
    for (let group = 0; group < this.#windows.length; group++) {
      for (let p = numComputed; p < numComputed + numScheduled; p++) {
        const slot = this.blocks.slot(table, p, group);
        if (slot < this.#blockSize) throw new Error("the null block is written");
        this.#slots[slot] = fingerprints[p]! ^ group;
      }
    }
  }

  #commit(client: Client): void {
    if (client.numScheduled === 0) return;
    client.numComputed += client.numScheduled;
    client.numScheduled = 0;
    const { table, numComputed } = client;
    if (table.numPromisedBlocks > 0) this.blocks.releaseBehind(table, numComputed);
    else this.blocks.markComputed(table, client, numComputed);
    if (client.isAborted) this.#drop(client);
  }

  #drop(client: Client): void {
    this.blocks.free(client.table);
    client.isAborted = false;
    client.numTokens = 0;
    client.numComputed = 0;
    client.prefixNodes.length = 0;
  }

  /** Every computed token that later ones attend to can be read back. */
  #verify({ table, fingerprints, numComputed }: Client): void {
    for (const [group, window] of this.#windows.entries()) {
      for (let p = Math.max(0, numComputed - window + 1); p < numComputed; p++) {
        if (this.#slots[this.blocks.slot(table, p, group)] !== (fingerprints[p]! ^ group))
          throw new Error("a slot holds another token than the table says");
      }
    }
  }
}

function newClient(): Client {
  return {
    tokenIds: new Int32Array(maxTokens),
    fingerprints: new Int32Array(maxTokens),
    numTokens: 0,
    numComputed: 0,
    numScheduled: 0,
    isAborted: false,
    table: new BlockTable(),
    prefixNodes: [],
  };
}

/** Salted sequences have other contents, so that sharing across salts shows. */
function append(client: Client, token: number): void {
  const p = client.numTokens++;
  client.tokenIds[p] = token;
  const before = p === 0 ? (client.table.cacheSalt === undefined ? 7 : 11) : 0;
  const chain = p === 0 ? before : client.fingerprints[p - 1]!;
  client.fingerprints[p] = Math.imul(chain ^ (token + 1), 0x2c1b3c6d) ^ (chain >>> 13);
}
