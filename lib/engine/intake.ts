import type { Tokenizer } from "../loading/tokenizer.js";
import { hasControlTexts, resolveTexts } from "../sampling/check-sampling.js";
import type { SamplingParams } from "../sampling/sampling-params.js";
import type { StopConditions } from "../sampling/stop.js";
import { missingTokenizer } from "./engine-errors.js";
import type { LiveRequest } from "./live-request.js";
import type { LogitsQueue } from "./logits.js";
import {
  checkPromptLength,
  checkVocabulary,
  type CheckedRequest,
  type RequestLimits,
} from "./request.js";

/** Checked ids, or what makes them from text. */
export type PromptSource = Int32Array | (() => Promise<Int32Array>);

/** What the sequences of a request begin with. */
export interface Admission {
  readonly promptTokenIds: Int32Array;
  readonly sampling: SamplingParams;
  readonly stop: StopConditions;
}

/** What happens to requests between the call and the queue: texts become tokens, and prompts are scored. */
export class Intake {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #limits: RequestLimits;
  readonly #score: LogitsQueue["score"];

  /** @param score - computes a prompt for the log-probabilities of its tokens alone */
  constructor(
    tokenizer: Tokenizer | undefined,
    limits: RequestLimits,
    score: LogitsQueue["score"],
  ) {
    this.#tokenizer = tokenizer;
    this.#limits = limits;
    this.#score = score;
  }

  /** @throws ERR_TOKENIZER_MISSING for a request with texts that have to be found or avoided */
  checkTexts({ stop, controlTexts }: CheckedRequest): void {
    if (stop.length > 0) this.requireTokenizer("stop texts");
    if (controlTexts.needTokenizer) this.requireTokenizer("bad words and sequence breakers");
  }

  /** @throws ERR_TOKENIZER_MISSING */
  requireTokenizer(purpose: string): Tokenizer {
    if (this.#tokenizer !== undefined) return this.#tokenizer;
    throw missingTokenizer(purpose);
  }

  /** The request may end meanwhile. */
  async admit(live: LiveRequest, prompt: PromptSource): Promise<Admission> {
    const promptTokenIds = prompt instanceof Int32Array ? prompt : await this.#encode(prompt);
    live.promptTokenIds = promptTokenIds;
    const { request } = live;
    const sampling = hasControlTexts(request)
      ? await this.#resolveTexts(request)
      : request.sampling;
    if (request.promptLogprobs !== undefined) await this.#scorePrompt(live, promptTokenIds);
    return { promptTokenIds, sampling, stop: this.#stopOf(request, promptTokenIds.length) };
  }

  async #encode(encode: () => Promise<Int32Array>): Promise<Int32Array> {
    const ids = await encode();
    checkPromptLength(ids.length, this.#limits.maxModelLen);
    checkVocabulary(ids, this.#limits.vocabSize);
    return ids;
  }

  async #resolveTexts(request: CheckedRequest): Promise<SamplingParams> {
    const tokenizer = this.#tokenizer;
    if (tokenizer === undefined) return request.sampling; // without the default sequence breakers
    const { vocabSize } = this.#limits;
    return resolveTexts(request, (text, options) => tokenizer.encode(text, options), vocabSize);
  }

  async #scorePrompt(live: LiveRequest, ids: Int32Array): Promise<void> {
    if (live.isDone) return;
    const { promptLogprobs = 0 } = live.request;
    live.scoring = new AbortController();
    live.promptLogprobs = await this.#score(ids, promptLogprobs, live.scoring.signal);
    live.scoring = undefined;
  }

  #stopOf(
    { ignoreEos, stopTokenIds, maxTokens }: CheckedRequest,
    promptLength: number,
  ): StopConditions {
    const { eosTokenIds, maxModelLen } = this.#limits;
    return {
      eosTokenIds: ignoreEos ? noTokens : eosTokenIds,
      stopTokenIds,
      maxTokens: Math.min(maxTokens, maxModelLen - promptLength),
    };
  }
}

const noTokens: ReadonlySet<number> = new Set();
