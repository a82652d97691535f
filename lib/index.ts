/**
 * The LLM inference engine for Node.js.
 *
 * @packageDocumentation
 */

/** Loads a model directory or a GGUF file and starts an engine for it. */
export { createEngine } from "./engine/create-engine.js";

/** Says what memory an engine would take, before anything is loaded. */
export { planMemory, type MemoryPlan } from "./engine/plan-memory.js";

/** What an engine is made with, and what it says about itself. */
export type {
  Engine,
  EngineInfo,
  EngineOptions,
  EngineStats,
  LoadProgress,
} from "./engine/types.js";
export type { PassedOverDevice } from "./engine/open-device.js";
export type { ModelDtype } from "./graph/choose-dtype.js";
export type { KeptDtype, QuantizedDtype } from "./graph/dtypes.js";

/** What an engine tells while it works. */
export type { CacheEvent } from "./cache/prefix-cache.js";
export type {
  EngineEventListener,
  EngineEvents,
  PrefixCacheEvent,
  RequestEvent,
  RequestFinishEvent,
  RequestStartEvent,
  StepEvent,
} from "./engine/events.js";

/** Requests, and what comes back. */
export type {
  BeamOptions,
  ChatRequest,
  Delta,
  FinishReason,
  GeneratedOutput,
  GenerateRequest,
  GenerateResult,
  Generation,
  DryOptions,
  Logprob,
  LogitsProcessor,
  SamplingOptions,
  TokenLogprob,
  Usage,
  XtcOptions,
} from "./engine/types.js";

/** Conversations and texts that keep their K and V between turns. */
export type {
  Session,
  SessionChatRequest,
  SessionGenerateRequest,
  SessionOptions,
  SessionUsage,
} from "./engine/session-types.js";

/** Messages of a conversation, in OpenAI's shape. */
export type {
  ChatContentPart,
  ChatMessage,
  ChatTemplateOptions,
  ChatToolCall,
} from "./loading/chat.js";

/** Text to token ids and back. */
export type {
  DecodeOptions,
  EncodeOptions,
  StreamInput,
  StreamOutput,
  Tokenizer,
} from "./loading/tokenizer.js";

/** The backends and devices of this installation, and whether each can be used here. */
export { backends } from "./backends.js";
export { listDevices, type DeviceReport } from "./engine/list-devices.js";
export type { BackendReport, DeviceInfo } from "./native.js";

/** The one error class, and every code that it can carry. */
export { errorCodes, PagodaError, type ErrorCode } from "./errors.js";
