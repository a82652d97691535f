/**
 * The policy layer by itself: paged KV cache and continuous batching, as pure TypeScript. Needs no native addon.
 *
 * @packageDocumentation
 */

/** Slots of a paged KV cache: block tables over a pool of reference-counted blocks, prefix sharing, copy-on-write forks. */
export {
  BlockManager,
  BlockTable,
  GroupBlocks,
  type BlockManagerOptions,
  type BlockUsage,
  type CachedPrefix,
  type TokenSource,
} from "./cache/block-manager.js";
export type { KvGroup } from "./graph/plan.js";
export { BlockPool, nullBlock } from "./cache/block-pool.js";
export { hashTokens, type BlockHash } from "./cache/block-hash.js";
export type { CacheEvent, PrefixCacheOptions, PrefixNode } from "./cache/prefix-cache.js";

/** Continuous batching: what each step runs. */
export {
  Scheduler,
  type DrawnToken,
  type ScheduledSequence,
  type ScheduledStep,
  type Fork,
  type SchedulerOptions,
} from "./scheduler/scheduler.js";
export { byPriority, fcfs, type Policy } from "./scheduler/policy.js";
export {
  Sequence,
  type ForkOptions,
  type SequenceOptions,
  type SequenceStatus,
} from "./scheduler/sequence.js";

/** A step as flat arrays. */
export { Batch } from "./scheduler/batch.js";
export type {
  Lists,
  SamplingControls,
  SamplingInput,
  StepInput,
  StepLogprobs,
  StepOutput,
} from "./engine/step.js";

/** How tokens are drawn, and when a sequence ends. */
export {
  greedySampling,
  resolveSamplingParams,
  type DefaultedOptions,
  type SamplingDefaults,
  type SamplingParams,
  type Unset,
} from "./sampling/sampling-params.js";
export type { DryParams, LogitBias, LogitsControls } from "./sampling/logits-controls.js";
export { checkStop, StopMatcher, type StopConditions, type StopMatch } from "./sampling/stop.js";

export { errorCodes, PagodaError, type ErrorCode } from "./errors.js";
