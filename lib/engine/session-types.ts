import type { ChatMessage } from "../loading/chat.js";
import type { ChatRequest, GenerateRequest, Generation } from "./types.js";

/** How a session begins. */
export interface SessionOptions {
  /** What the model is told before the conversation: the first message, of the role `system`. */
  readonly system?: string;
  /** What was said before. */
  readonly messages?: readonly ChatMessage[];
  /** As of each of its requests, see {@link GenerateRequest.cacheSalt}. @default none */
  readonly cacheSalt?: string;
}

export interface SessionChatRequest extends Omit<ChatRequest, "messages" | "cacheSalt"> {
  /** What is said: a text of the user, or any messages. */
  readonly message: string | ChatMessage | readonly ChatMessage[];
}

/** Text is encoded without special tokens, but for the first turn. */
export type SessionGenerateRequest = Omit<GenerateRequest, "cacheSalt">;

/** What a session keeps of the KV cache. */
export interface SessionUsage {
  /** Tokens of its context. */
  readonly tokens: number;
  /** Leading ones whose K and V are kept now; the others will be computed again. */
  readonly cachedTokens: number;
  /** Blocks that hold them. */
  readonly blocks: number;
  /** Those of them that others hold, too. */
  readonly sharedBlocks: number;
  /** Bytes of these blocks. */
  readonly memory: number;
}

/**
 * A conversation, or a text that grows, whose K and V are kept between its turns, whole blocks of them, so that a turn
 * computes only what is new. Under pressure the blocks go to running requests, those of the least recently used session
 * first, and are computed again with the next turn: results do not depend on it.
 *
 * A session is one of both, from its first turn on: `chat` renders all messages with the model's chat template, `generate`
 * appends to the tokens. Turns follow each other; to branch, `fork` it. A turn that fails or is cancelled leaves the session
 * as it was. Of several outputs, the first one is what was said.
 */
export interface Session extends AsyncDisposable {
  /** Unique in the process. */
  readonly id: string;
  /** All that was said; empty for a text. */
  readonly messages: readonly ChatMessage[];
  /** int32, the context: prompt and output of the last turn. A copy. */
  readonly tokenIds: Int32Array;
  /** A turn of the conversation. The answer joins `messages` when it is whole. @throws as `engine.chat`, ERR_SESSION_BUSY */
  chat(request: SessionChatRequest): Generation;
  /** A turn of the text: the prompt, which may be empty but for the first turn, then the output. @throws as `engine.generate`, ERR_SESSION_BUSY */
  generate(request: SessionGenerateRequest): Generation;
  /** A session that goes its own way from the end of the last turn on, and shares all blocks. @throws ERR_CLOSED */
  fork(): Session;
  /**
   * Forgets all but the first messages of a conversation, or the first tokens of a text.
   * @throws ERR_ARGUMENT, ERR_SESSION_BUSY, ERR_CLOSED
   */
  truncate(to: { readonly numMessages: number } | { readonly numTokens: number }): void;
  /**
   * Writes the session as the last turn left it, with its K and V, to a file, which only its user can read and
   * `engine.restoreSession` of the same model opens. See docs/sessions.md for the format.
   *
   * @throws ERR_ARGUMENT, ERR_SESSION_WRITE, ERR_ABORTED, ERR_CLOSED
   */
  save(path: string, options?: { readonly signal?: AbortSignal }): Promise<void>;
  usage(): SessionUsage;
  /** Gives its blocks up; a turn under way is cancelled (ERR_ABORTED). Idempotent. */
  close(): Promise<void>;
}
