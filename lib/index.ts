/**
 * The LLM inference engine for Node.js.
 *
 * @packageDocumentation
 */

/** Loads a model directory and starts an engine for it. */
export { createEngine } from "./engine/create-engine.js";

/** What an engine is made with, and what it says about itself. */
export type {
  Engine,
  EngineInfo,
  EngineOptions,
  EngineStats,
  LoadProgress,
} from "./engine/types.js";

/** Requests, and what comes back. */
export type {
  ChatRequest,
  Delta,
  FinishReason,
  GenerateRequest,
  GenerateResult,
  Generation,
  SamplingOptions,
  Usage,
} from "./engine/types.js";

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

/** The backends of this installation, and whether each can be used here. */
export { backends } from "./backends.js";
export type { BackendReport, DeviceInfo } from "./native.js";

/** The one error class, and every code that it can carry. */
export { errorCodes, PagodaError, type ErrorCode } from "./errors.js";
