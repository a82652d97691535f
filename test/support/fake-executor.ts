import { setImmediate as macrotask } from "node:timers/promises";
import type { Executor, ExecutorLimits } from "../../lib/engine/executor.js";
import { validateReadBlocks, validateWriteBlocks } from "../../lib/engine/kv-transfer.js";
import type { SamplingInput, StepInput, StepOutput } from "../../lib/engine/step.js";
import { validateStep } from "../../lib/engine/validate-step.js";
import { PagodaError } from "../../lib/errors.js";

export interface FakeExecutorOptions extends Partial<ExecutorLimits> {
  /** Runs before each call, e.g. to wait, to count, or to throw. `call` counts from 0. */
  readonly onCall?: (call: number, input: StepInput) => void | Promise<void>;
  /** Token after `context`; the default depends on all of it and on the sampling parameters. */
  readonly nextToken?: (context: readonly number[], sampling: FakeSampling) => number;
  /** Whether the logits after `context` are finite. */
  readonly isFinite?: (context: readonly number[]) => boolean;
}

/** Sampling parameters of one output row. */
export interface FakeSampling {
  readonly temperature: number;
  readonly seed: readonly [number, number];
  readonly position: number;
}

const defaults: ExecutorLimits = {
  maxTokens: 64,
  maxRequests: 16,
  maxOutputs: 16,
  numBlocks: 65,
  blockSize: 4,
  vocabSize: 300,
  kvGroups: [{ slidingWindow: 0 }],
};

/**
 * A fake: "computes" a token from all of the context that some KV group sees, which it reads back through the block tables
 * of all groups. Its KV cache holds the token, position and group that were last written to each slot, so a block that is
 * reused too early, a wrong slot or a wrong position shows as an error, and a wrong context as a wrong token.
 */
export class FakeExecutor implements Executor {
  readonly limits: ExecutorLimits;
  /** Token and position of each slot, 4 bytes each. */
  readonly kvBlockBytes: number;
  readonly kvLayout: string;
  /** Every step's input, copied. */
  readonly steps: {
    readonly tokens: number;
    readonly requests: number;
    readonly outputs: number;
  }[] = [];
  calls = 0;
  isClosed = false;
  readonly #options: FakeExecutorOptions;
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #groups: Int32Array;
  /** Last tokens of a context that the largest window sees. */
  readonly #maxVisible: number;
  #isRunning = false;
  /** Settles with the step under way, whatever becomes of it. */
  #step: Promise<unknown> = Promise.resolve();

  constructor(options: FakeExecutorOptions = {}) {
    const { onCall: _, nextToken: __, isFinite: ___, ...limits } = options;
    this.#options = options;
    this.limits = { ...defaults, ...limits };
    this.kvBlockBytes = 12 * this.limits.blockSize;
    this.kvLayout = `fake, blocks of ${this.limits.blockSize}`;
    const slots = this.limits.numBlocks * this.limits.blockSize;
    this.#tokens = new Int32Array(slots).fill(-1);
    this.#positions = new Int32Array(slots).fill(-1);
    this.#groups = new Int32Array(slots).fill(-1);
    this.#maxVisible = Math.max(...this.#windows);
  }

  async execute(input: StepInput): Promise<StepOutput> {
    return this.#run(input, () => this.compute(input));
  }

  /** Logits are -1 but for a 1 at the fake's next token. */
  async logits(input: StepInput): Promise<Float32Array> {
    return this.#run(input, () => {
      const { vocabSize } = this.limits;
      const { tokens } = this.compute(input);
      const logits = new Float32Array(tokens.length * vocabSize).fill(-1);
      for (const [row, token] of tokens.entries()) logits[row * vocabSize + token] = 1;
      return logits;
    });
  }

  /** The largest logit of each row, whatever the parameters. */
  async sampleRows(logits: Float32Array, sampling: SamplingInput): Promise<StepOutput> {
    const rows = sampling.temperature.length;
    const tokens = Int32Array.from({ length: rows }, (_, row) => {
      const { vocabSize } = this.limits;
      const values = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      return values.indexOf(Math.max(...values));
    });
    return { tokens, finite: new Int32Array(rows).fill(1) };
  }

  async readBlocks(blocks: Int32Array): Promise<Uint8Array> {
    validateReadBlocks(blocks, this);
    const ids = blocks.slice();
    await this.#step;
    if (this.isClosed) throw new PagodaError("ERR_CLOSED", "The executor is closed");
    return new Uint8Array(Buffer.concat([...ids].flatMap((block) => this.#blockParts(block))));
  }

  async writeBlocks(blocks: Int32Array, bytes: Uint8Array): Promise<void> {
    validateWriteBlocks(blocks, bytes, this);
    const parts = [...blocks].flatMap((block) => this.#blockParts(block));
    const copy = bytes.slice();
    await this.#step;
    if (this.isClosed) throw new PagodaError("ERR_CLOSED", "The executor is closed");
    for (const [i, part] of parts.entries()) {
      part.set(copy.subarray(i * part.length, (i + 1) * part.length));
    }
  }

  async close(): Promise<void> {
    if (this.#isRunning) throw new Error("closed during a step");
    this.isClosed = true;
  }

  /** The step itself, synchronously. */
  compute(input: StepInput): StepOutput {
    validateStep(input, this.limits);
    this.#copyBlocks(input);
    this.#writeCache(input);
    const { outputRows, tokenIds, queryStartLoc, seqLens } = input;
    this.steps.push({
      tokens: tokenIds.length,
      requests: seqLens.length,
      outputs: outputRows.length,
    });
    const tokens = new Int32Array(outputRows.length);
    const finite = new Int32Array(outputRows.length);
    for (const [output, row] of outputRows.entries()) {
      const request = queryStartLoc.findLastIndex((start) => start <= row);
      const position = input.positions[row]!;
      const context = this.#readContext(input, request, position + 1);
      const sampling = samplingOf(input, output);
      if (sampling.position !== position + 1) throw new Error("wrong sampling position");
      tokens[output] = this.nextToken(context, sampling);
      finite[output] = this.#options.isFinite?.(context) === false ? 0 : 1;
    }
    return { tokens, finite };
  }

  /** The token that this fake draws after a context. */
  nextToken(context: readonly number[], sampling: FakeSampling = fakeGreedy): number {
    const next = this.#options.nextToken ?? ((all, how) => hash(all, how) % this.limits.vocabSize);
    const hidden = context.length - this.#maxVisible;
    return next(hidden > 0 ? context.slice(hidden) : context, sampling);
  }

  /** Tokens that each KV group sees. */
  get #windows(): number[] {
    return this.limits.kvGroups.map(({ slidingWindow }) => slidingWindow || Infinity);
  }

  /** What it draws for a prompt alone, greedily. */
  expected(prompt: readonly number[], count: number): number[] {
    const context = [...prompt];
    for (let i = 0; i < count; i++) context.push(this.nextToken(context));
    return context.slice(prompt.length);
  }

  #run<T>(input: StepInput, compute: () => T): Promise<T> {
    const step = this.#runStep(input, compute);
    this.#step = step.catch(() => undefined);
    return step;
  }

  async #runStep<T>(input: StepInput, compute: () => T): Promise<T> {
    if (this.#isRunning) throw new Error("two steps at once");
    if (this.isClosed) throw new Error("used after close");
    this.#isRunning = true;
    try {
      const call = this.calls++;
      if (this.#options.onCall) await this.#options.onCall(call, input);
      else await macrotask();
      return compute();
    } finally {
      this.#isRunning = false;
    }
  }

  /** Views of the bytes of a block. */
  #blockParts(block: number): Uint8Array[] {
    const length = this.kvBlockBytes / 3;
    return [this.#tokens, this.#positions, this.#groups].map(
      ({ buffer }) => new Uint8Array(buffer, block * length, length),
    );
  }

  /** Block copies come first, and none reads what another one writes. */
  #copyBlocks({ blockCopies }: StepInput): void {
    const { blockSize } = this.limits;
    const sources = new Set(blockCopies.filter((_, i) => i % 2 === 0));
    for (let i = 0; i < blockCopies.length; i += 2) {
      const [from, to] = [blockCopies[i]!, blockCopies[i + 1]!];
      if (sources.has(to) || to === 0) throw new Error("a copy overwrites what it must not");
      for (const cache of [this.#tokens, this.#positions, this.#groups]) {
        cache.copyWithin(to * blockSize, from * blockSize, (from + 1) * blockSize);
      }
    }
  }

  #writeCache({ tokenIds, positions, slotMapping }: StepInput): void {
    const { blockSize } = this.limits;
    if (new Set(slotMapping).size !== slotMapping.length)
      throw new Error("a slot is written twice");
    for (const [i, slot] of slotMapping.entries()) {
      if (slot < blockSize) throw new Error("the null block is written");
      const t = i % tokenIds.length;
      this.#tokens[slot] = tokenIds[t]!;
      this.#positions[slot] = positions[t]!;
      this.#groups[slot] = Math.floor(i / tokenIds.length);
    }
  }

  /** What the group with the largest window sees; the others must see the end of the same. */
  #readContext(input: StepInput, request: number, length: number): number[] {
    const contexts = this.#windows.map((window, group) => {
      return this.#readGroup(input, { request, group }, Math.max(0, length - window), length);
    });
    const longest = contexts.reduce((a, b) => (b.length > a.length ? b : a));
    for (const context of contexts) {
      const end = longest.slice(longest.length - context.length);
      if (end.join() !== context.join()) throw new Error("groups hold different tokens");
    }
    return longest;
  }

  #readGroup(
    { blockTable, maxBlocks, seqLens }: StepInput,
    { request, group }: { request: number; group: number },
    start: number,
    end: number,
  ): number[] {
    const { blockSize } = this.limits;
    return Array.from({ length: end - start }, (_, i) => {
      const position = start + i;
      const row = (group * seqLens.length + request) * maxBlocks;
      const block = blockTable[row + Math.floor(position / blockSize)]!;
      const slot = block * blockSize + (position % blockSize);
      if (this.#positions[slot] !== position) throw new Error(`slot ${slot} was overwritten`);
      if (this.#groups[slot] !== group) throw new Error(`slot ${slot} is of another group`);
      return this.#tokens[slot]!;
    });
  }
}

export const fakeGreedy: FakeSampling = { temperature: 0, seed: [0, 0], position: 0 };

function samplingOf({ sampling }: StepInput, output: number): FakeSampling {
  const { temperature, seed, position } = sampling;
  return {
    temperature: temperature[output]!,
    seed: [seed[2 * output]!, seed[2 * output + 1]!],
    position: position[output]!,
  };
}

/** FNV-1a over the context; sampled rows depend on temperature, seed and position, too. */
function hash(context: readonly number[], { temperature, seed, position }: FakeSampling): number {
  const extra = temperature === 0 ? [] : [Math.round(temperature * 1000), ...seed, position];
  let value = 0x811c9dc5;
  for (const word of [...context, ...extra]) {
    value = Math.imul(value ^ word, 0x01000193) >>> 0;
    value = (value ^ (value >>> 13)) >>> 0;
  }
  return value;
}
