import { randomUUID } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import type {
  Delta,
  FinishReason,
  GeneratedOutput,
  GenerateResult,
  TokenLogprob,
  Usage,
} from "../engine/types.js";
import type { Tokenizer } from "../loading/tokenizer.js";
import { nameTokens, promptLogprobs, textLength, type TokenNames } from "./logprobs.js";
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
  /** Where the log-probabilities of a prompt are told: in its first choice, or beside the choices. */
  readonly promptLogprobsIn: "choice" | "answer";
  /** The content of a choice of a whole answer. */
  whole(text: string): object;
  /** The content of a choice of a chunk; `text` may be empty. */
  piece(text: string): object;
  /** The log-probabilities of some tokens, `start` characters behind the beginning of the output. */
  logprobs(logprobs: readonly TokenLogprob[], names: TokenNames, start: number): object;
}

/** Tokens of a prompt whose log-probabilities are written in one turn of the event loop. */
const tokensATurn = 128;

interface BodyOptions {
  /** Choices a prompt. */
  readonly n: number;
  readonly returnTokenIds: boolean;
  readonly includeUsage: boolean;
}

/** Makes the JSON of one answer, whole or in chunks: all parts share its id. */
export class AnswerBody {
  readonly id: string;
  readonly #shape: AnswerShape;
  readonly #model: string;
  readonly #created: number = unixSeconds();
  readonly #n: number;
  readonly #returnTokenIds: boolean;
  /** Each chunk of a stream that ends with the usage has a usage of null. */
  readonly #chunkTail: object;
  readonly #tokenizer: Tokenizer | undefined;
  /** The choices that were opened. */
  readonly #opened: Set<number> = new Set();
  /** Characters of the tokens of each choice whose log-probabilities were told. */
  readonly #offsets: number[] = [];

  /** @param tokenizer - names the tokens of log-probabilities */
  constructor(
    shape: AnswerShape,
    model: string,
    tokenizer: Tokenizer | undefined,
    options: BodyOptions,
  ) {
    this.id = shape.idPrefix + randomUUID().replaceAll("-", "");
    this.#shape = shape;
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#n = options.n;
    this.#returnTokenIds = options.returnTokenIds;
    this.#chunkTail = options.includeUsage ? { usage: null } : {};
  }

  /** Whether the last chunk of each choice tells of the prompt, so that it has to wait for the result. */
  get endsWithPrompt(): boolean {
    return this.#returnTokenIds;
  }

  /** Of an output of a prompt: those of the first prompt come first. */
  choiceIndex(prompt: number, output: number): number {
    return prompt * this.#n + output;
  }

  /** The text of a whole answer. It is written in parts, one a turn: with log-probabilities it may be long. */
  async whole(results: readonly GenerateResult[]): Promise<string> {
    const choices: string[] = [];
    let beside = "";
    for (const [prompt, result] of results.entries()) {
      const told = await this.#promptLogprobs(result);
      const isInChoice = this.#shape.promptLogprobsIn === "choice";
      if (!isInChoice) beside = told;
      for (const [i, output] of result.outputs.entries()) {
        const choice = await this.#wholeChoice(this.choiceIndex(prompt, i), output, result);
        choices.push(withMembers(JSON.stringify(choice), i === 0 && isInChoice ? told : ""));
        await nextTurn();
      }
    }
    const usage = JSON.stringify(sumUsage(results));
    const members = `,"choices":[${choices.join()}],"usage":${usage}${beside}`;
    return withMembers(JSON.stringify(this.#head(this.#shape.object)), members);
  }

  /** The chunk that opens choice `index`; undefined when the endpoint has none, or it was opened before. */
  opening(index: number): object | undefined {
    const { opening } = this.#shape;
    if (opening === undefined || this.#opened.has(index)) return undefined;
    this.#opened.add(index);
    return this.#chunk({ index, ...opening, logprobs: null, finish_reason: null });
  }

  /** Undefined when the delta has nothing to say. */
  async piece(prompt: number, delta: Delta): Promise<object | undefined> {
    const { text, logprobs, finishReason } = delta;
    const isSilent = text === "" && logprobs === undefined && finishReason === undefined;
    return isSilent && !this.#returnTokenIds ? undefined : this.#piece(prompt, delta);
  }

  lastPiece(prompt: number, delta: Delta, result: GenerateResult): Promise<object> {
    return this.#piece(prompt, delta, result);
  }

  /** The chunk after all choices, when it was asked for. */
  usage(results: readonly GenerateResult[]): object {
    return { ...this.#head(this.#shape.chunkObject), choices: [], usage: sumUsage(results) };
  }

  async #wholeChoice(
    index: number,
    { text, tokenIds, logprobs, finishReason }: GeneratedOutput,
    result: GenerateResult,
  ): Promise<object> {
    return {
      index,
      ...this.#shape.whole(text),
      logprobs: await this.#logprobs(index, logprobs),
      ...endOf(finishReason),
      ...this.#tokenIds(tokenIds, result.promptTokenIds),
    };
  }

  async #piece(
    prompt: number,
    { index: output, text, tokenIds, logprobs, finishReason }: Delta,
    result?: GenerateResult,
  ): Promise<object> {
    const index = this.choiceIndex(prompt, output);
    return this.#chunk({
      index,
      ...this.#shape.piece(text),
      logprobs: await this.#logprobs(index, logprobs),
      ...endOf(finishReason),
      ...this.#tokenIds(tokenIds, result?.promptTokenIds),
    });
  }

  #head(object: string): object {
    return { id: this.id, object, created: this.#created, model: this.#model };
  }

  #chunk(choice: object): object {
    return { ...this.#head(this.#shape.chunkObject), choices: [choice], ...this.#chunkTail };
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

  /** As a member of an object's JSON; empty without. */
  async #promptLogprobs({ promptLogprobs: logprobs }: GenerateResult): Promise<string> {
    if (logprobs === undefined) return "";
    const parts: string[] = [];
    for (let at = 0; at < logprobs.length; at += tokensATurn) {
      const part = logprobs.slice(at, at + tokensATurn);
      const known = part.filter((token) => token !== null);
      const names = await nameTokens(this.#tokenizer, known);
      parts.push(JSON.stringify(promptLogprobs(part, names)).slice(1, -1));
      await nextTurn();
    }
    return `,"prompt_logprobs":[${parts.join()}]`;
  }

  #tokenIds(ids: readonly number[], promptIds?: readonly number[]): object {
    if (!this.#returnTokenIds) return {};
    return promptIds === undefined
      ? { token_ids: ids }
      : { token_ids: ids, prompt_token_ids: promptIds };
  }
}

/** The JSON of an object with further members, each of which begins with a comma. */
function withMembers(json: string, members: string): string {
  return `${json.slice(0, -1)}${members}}`;
}

/** OpenAI's clients know no deadline: to them the output was cut off, and a field of our own says by what. */
function endOf(finishReason: FinishReason | undefined): object {
  if (finishReason === "deadline") return { finish_reason: "length", deadline_exceeded: true };
  return { finish_reason: finishReason ?? null };
}

/** Usage of all prompts together. */
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
