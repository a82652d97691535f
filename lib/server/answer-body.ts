import { randomUUID } from "node:crypto";
import type { Delta, GenerateResult, TokenLogprob, Usage } from "../engine/types.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import { nameTokens, textLength, type TokenNames } from "./logprobs.js";
import { unixSeconds } from "./options.js";

/** How one endpoint words its answers. */
export interface AnswerShape {
  readonly idPrefix: string;
  /** The request field that holds the prompt. */
  readonly input: string;
  /** The field `object` of a whole answer and of a chunk of a stream. */
  readonly object: string;
  readonly chunkObject: string;
  /** The content of the chunk that opens each choice of a stream, where there is one. */
  readonly opening?: object;
  /** The content of a choice of a whole answer. */
  whole(text: string): object;
  /** The content of a choice of a chunk; `text` may be empty. */
  piece(text: string): object;
  /** The log-probabilities of some tokens, `start` characters behind the beginning of the output. */
  logprobs(logprobs: readonly TokenLogprob[], names: TokenNames, start: number): object;
}

/** Makes the JSON of one answer, whole or in chunks: all parts share its id. */
export class AnswerBody {
  readonly id: string;
  readonly #shape: AnswerShape;
  readonly #model: string;
  readonly #created: number = unixSeconds();
  readonly #returnTokenIds: boolean;
  /** Each chunk of a stream that ends with the usage has a usage of null. */
  readonly #chunkTail: object;
  readonly #tokenizer: Tokenizer | undefined;
  /** Characters of the tokens of each choice whose log-probabilities were told. */
  readonly #offsets: number[] = [];

  /** @param tokenizer - names the tokens of log-probabilities */
  constructor(
    shape: AnswerShape,
    model: string,
    tokenizer: Tokenizer | undefined,
    options: { returnTokenIds: boolean; includeUsage: boolean },
  ) {
    this.id = shape.idPrefix + randomUUID().replaceAll("-", "");
    this.#shape = shape;
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#returnTokenIds = options.returnTokenIds;
    this.#chunkTail = options.includeUsage ? { usage: null } : {};
  }

  async whole(results: readonly GenerateResult[]): Promise<object> {
    const choices = results.map(async (result, index) => {
      const logprobs = await this.#logprobs(index, result.logprobs);
      return {
        ...this.#choice(index, this.#shape.whole(result.text), logprobs, result.finishReason),
        ...this.#tokenIds(result.tokenIds, result.promptTokenIds),
      };
    });
    const head = this.#head(this.#shape.object);
    return { ...head, choices: await Promise.all(choices), usage: sumUsage(results) };
  }

  /** The chunk that opens choice `index`; undefined when the endpoint has none. */
  opening(index: number): object | undefined {
    return this.#shape.opening && this.#chunk(this.#choice(index, this.#shape.opening, null, null));
  }

  /** Undefined when the delta has nothing to say. */
  async piece(index: number, delta: Delta): Promise<object | undefined> {
    if (delta.text === "" && delta.logprobs === undefined && !this.#returnTokenIds)
      return undefined;
    return this.#piece(index, delta, null);
  }

  lastPiece(index: number, delta: Delta, result: GenerateResult): Promise<object> {
    return this.#piece(index, delta, result.finishReason, result.promptTokenIds);
  }

  async #piece(
    index: number,
    { text, tokenIds, logprobs }: Delta,
    finishReason: string | null,
    promptTokenIds?: readonly number[],
  ): Promise<object> {
    const told = await this.#logprobs(index, logprobs);
    return this.#chunk({
      ...this.#choice(index, this.#shape.piece(text), told, finishReason),
      ...this.#tokenIds(tokenIds, promptTokenIds),
    });
  }

  /** The chunk after all choices, when it was asked for. */
  usage(results: readonly GenerateResult[]): object {
    return { ...this.#head(this.#shape.chunkObject), choices: [], usage: sumUsage(results) };
  }

  #head(object: string): object {
    return { id: this.id, object, created: this.#created, model: this.#model };
  }

  #chunk(choice: object): object {
    return { ...this.#head(this.#shape.chunkObject), choices: [choice], ...this.#chunkTail };
  }

  #choice(
    index: number,
    content: object,
    logprobs: object | null,
    finishReason: string | null,
  ): object {
    return { index, ...content, logprobs, finish_reason: finishReason };
  }

  async #logprobs(
    index: number,
    logprobs: readonly TokenLogprob[] | undefined,
  ): Promise<object | null> {
    if (logprobs === undefined) return null;
    const names = await nameTokens(this.#tokenizer, logprobs);
    const start = this.#offsets[index] ?? 0;
    this.#offsets[index] = start + textLength(logprobs, names);
    return this.#shape.logprobs(logprobs, names, start);
  }

  #tokenIds(ids: readonly number[], promptIds?: readonly number[]): object {
    if (!this.#returnTokenIds) return {};
    return promptIds === undefined
      ? { token_ids: ids }
      : { token_ids: ids, prompt_token_ids: promptIds };
  }
}

/** Usage of all choices together. */
function sumUsage(results: readonly { usage: Usage }[]): object {
  const sum = (of: (usage: Usage) => number) =>
    results.reduce((total, { usage }) => total + of(usage), 0);
  const prompt = sum(({ promptTokens }) => promptTokens);
  const output = sum(({ outputTokens }) => outputTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: output,
    total_tokens: prompt + output,
    prompt_tokens_details: { cached_tokens: sum(({ cachedTokens }) => cachedTokens) },
  };
}
