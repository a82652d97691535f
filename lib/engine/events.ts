import type { CacheEvent } from "../cache/prefix-cache.js";
import type { ErrorCode } from "../errors.js";
import type { FinishReason, Usage } from "./types.js";

/**
 * What an engine tells while it works, by the name of the event. The records are plain data; listeners of the engine and
 * subscribers of the diagnostics channel of the same name (`pagoda:step`) get the same one.
 *
 * A request that ends in a step is told before the step; one whose last text is outstanding, as soon as that is out.
 */
export interface EngineEvents {
  /** A request was accepted. A text prompt is tokenised first. */
  "request:queued": RequestEvent;
  /** The first step that runs it has begun. */
  "request:start": RequestStartEvent;
  /** It had to give its KV blocks to others; its tokens are computed again later. */
  "request:preempted": RequestEvent;
  /** It has ended, in whatever way. The last event of a request, once for each that was queued. */
  "request:finish": RequestFinishEvent;
  /** A step of running requests is done. Those of `logits` are not told. */
  step: StepEvent;
  /** The prefix cache has changed. Changes are told after the step that made them, in their order. */
  cache: PrefixCacheEvent;
}

/** Which blocks of tokens can be found, for observers such as a router. Hashes are of this engine alone. */
export type PrefixCacheEvent = CacheEvent & {
  /** The model's name, as in `engine.info`. */
  readonly model: string;
};

export interface RequestEvent {
  /** The generation's `id`. */
  readonly id: string;
  /** The model's name, as in `engine.info`. */
  readonly model: string;
}

export interface RequestStartEvent extends RequestEvent {
  /** Leading prompt tokens that were found in the prefix cache. */
  readonly cachedTokens: number;
}

export interface RequestFinishEvent extends RequestEvent {
  /** Undefined when it failed. */
  readonly finishReason: FinishReason | undefined;
  /** Set when it failed; ERR_ABORTED and ERR_CLOSED: by its owner's wish. */
  readonly errorCode: ErrorCode | undefined;
  /** Of a request that failed: as far as it got. */
  readonly usage: Usage;
}

export interface StepEvent {
  /** The model's name, as in `engine.info`. */
  readonly model: string;
  /** Tokens that were computed. */
  readonly tokens: number;
  /** Requests that took part. */
  readonly requests: number;
  /** Tokens that were drawn. */
  readonly outputs: number;
  /** Milliseconds from packing the step to its result. */
  readonly durationMs: number;
  /** Blocks that no request holds after it. */
  readonly freeBlocks: number;
}

/** Called synchronously, between two actions of the engine. */
export type EngineEventListener<K extends keyof EngineEvents> = (event: EngineEvents[K]) => void;
