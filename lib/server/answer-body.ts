import { randomUUID } from "node:crypto";
import type { Delta, GenerateResult, Usage } from "../engine/types.js";
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

  constructor(
    shape: AnswerShape,
    model: string,
    options: { returnTokenIds: boolean; includeUsage: boolean },
  ) {
    this.id = shape.idPrefix + randomUUID().replaceAll("-", "");
    this.#shape = shape;
    this.#model = model;
    this.#returnTokenIds = options.returnTokenIds;
    this.#chunkTail = options.includeUsage ? { usage: null } : {};
  }

  whole(results: readonly GenerateResult[]): object {
    const choices = results.map((result, index) => ({
      ...this.#choice(index, this.#shape.whole(result.text), result.finishReason),
      ...this.#tokenIds(result.tokenIds, result.promptTokenIds),
    }));
    return { ...this.#head(this.#shape.object), choices, usage: sumUsage(results) };
  }

  /** The chunk that opens choice `index`; undefined when the endpoint has none. */
  opening(index: number): object | undefined {
    return this.#shape.opening && this.#chunk(this.#choice(index, this.#shape.opening, null));
  }

  /** Undefined when the delta has nothing to say. */
  piece(index: number, delta: Delta): object | undefined {
    if (delta.text === "" && !this.#returnTokenIds) return undefined;
    return this.#chunk({
      ...this.#choice(index, this.#shape.piece(delta.text), null),
      ...this.#tokenIds(delta.tokenIds),
    });
  }

  lastPiece(index: number, delta: Delta, result: GenerateResult): object {
    return this.#chunk({
      ...this.#choice(index, this.#shape.piece(delta.text), result.finishReason),
      ...this.#tokenIds(delta.tokenIds, result.promptTokenIds),
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

  #choice(index: number, content: object, finishReason: string | null): object {
    return { index, ...content, logprobs: null, finish_reason: finishReason };
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
  const prompt = results.reduce((sum, { usage }) => sum + usage.promptTokens, 0);
  const output = results.reduce((sum, { usage }) => sum + usage.outputTokens, 0);
  return { prompt_tokens: prompt, completion_tokens: output, total_tokens: prompt + output };
}
