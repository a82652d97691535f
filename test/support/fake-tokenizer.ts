import { setImmediate as macrotask } from "node:timers/promises";
import { PagodaError } from "../../lib/errors.js";
import type { StreamInput, StreamOutput, Tokenizer } from "../../lib/loading/tokenizer.js";

export const fakeBos = 256;
export const fakeEos = 257;

export interface FakeTokenizerOptions {
  /** Macrotasks until the k-th `feed` is answered. @default 1 */
  readonly feedDelay?: (feed: number) => number;
  /** Runs before `encode` answers. */
  readonly onEncode?: (text: string) => void | Promise<void>;
  readonly hasChatTemplate?: boolean;
}

/**
 * A fake, in process: tokens 0 to 255 are bytes of UTF-8, so characters are split over tokens; 256 begins and 257 ends a
 * sequence. Higher ids have no text.
 */
export class FakeTokenizer implements Tokenizer {
  readonly vocabSize = 300;
  readonly eosTokenIds = [fakeEos];
  readonly hasChatTemplate: boolean;
  isClosed = false;
  feeds = 0;
  readonly #options: FakeTokenizerOptions;
  readonly #streams = new Map<number, InstanceType<typeof TextDecoder>>();
  /** Answers come in order, as from a worker. */
  #previous: Promise<unknown> = Promise.resolve();

  constructor(options: FakeTokenizerOptions = {}) {
    this.#options = options;
    this.hasChatTemplate = options.hasChatTemplate ?? true;
  }

  /** Streams that were opened and neither ended nor closed. */
  get openStreams(): number {
    return this.#streams.size;
  }

  async encode(text: string, { addSpecialTokens = true } = {}): Promise<Int32Array> {
    await macrotask();
    await this.#options.onEncode?.(text);
    this.#checkOpen();
    return Int32Array.from([...(addSpecialTokens ? [fakeBos] : []), ...Buffer.from(text)]);
  }

  async decode(ids: ArrayLike<number>): Promise<string> {
    return Buffer.from(Array.from(ids).filter((id) => id < 256)).toString();
  }

  async tokenBytes(ids: ArrayLike<number>): Promise<Uint8Array[]> {
    return Array.from(ids, (id) => Uint8Array.from(id < 256 ? [id] : []));
  }

  async applyChatTemplate(
    messages: readonly { role: string; content?: unknown }[],
  ): Promise<string> {
    await macrotask();
    this.#checkOpen();
    if (!this.hasChatTemplate) throw new PagodaError("ERR_CHAT_TEMPLATE", "no template");
    return `${messages.map(({ role, content }) => `${role}: ${String(content)}\n`).join("")}assistant: `;
  }

  openStream(id: number): void {
    this.#checkOpen();
    if (this.#streams.has(id)) throw new Error(`stream ${id} is open`);
    this.#streams.set(id, new TextDecoder());
  }

  async feed(batch: readonly StreamInput[]): Promise<readonly StreamOutput[]> {
    this.#checkOpen();
    const outputs = batch.map((input) => this.#decode(input));
    const delay = this.#options.feedDelay?.(this.feeds++) ?? 1;
    const previous = this.#previous;
    const answered = (async () => {
      for (let i = 0; i < delay; i++) await macrotask();
      await previous;
    })();
    this.#previous = answered;
    await answered;
    this.#checkOpen();
    return outputs;
  }

  closeStream(id: number): void {
    this.#streams.delete(id);
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }

  #decode({ id, tokens, last }: StreamInput): StreamOutput {
    const decoder = this.#streams.get(id);
    if (decoder === undefined) throw new Error(`stream ${id} is not open`);
    if (last) this.#streams.delete(id);
    const bytes = Uint8Array.from(tokens.filter((token) => token < 256));
    return { id, text: decoder.decode(bytes, { stream: !last }) };
  }

  #checkOpen(): void {
    if (this.isClosed) throw new PagodaError("ERR_CLOSED", "The tokenizer is closed");
  }
}
