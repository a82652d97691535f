import { randomUUID } from "node:crypto";
import { checkInteger, checkObject, checkSignal } from "../arguments.js";
import type { BlockTable } from "../cache/block-manager.js";
import { argumentError, PagodaError } from "../errors.js";
import type { ChatMessage } from "../loading/chat.js";
import type { OnSettled } from "./live-request.js";
import { copyMessages } from "./session-messages.js";
import type { SessionBlocks } from "./session-blocks.js";
import type {
  Session,
  SessionChatRequest,
  SessionGenerateRequest,
  SessionUsage,
} from "./session-types.js";
import type { ChatRequest, GenerateRequest, Generation, GenerateResult } from "./types.js";

/** What a session remembers. */
export interface SessionState {
  /** Undefined before the first turn of a session that began without messages. */
  readonly kind: "chat" | "text" | undefined;
  readonly messages: readonly ChatMessage[];
  /** int32, prompt and output of the last turn. */
  readonly tokenIds: Int32Array;
  /** Messages and tokens at the end of each turn, oldest first. */
  readonly turns: readonly { readonly numMessages: number; readonly numTokens: number }[];
  readonly cacheSalt: string | undefined;
}

/** The engine, as sessions see it. */
export interface SessionHost {
  readonly blocks: SessionBlocks;
  chat(request: ChatRequest, onSettled: OnSettled): Generation;
  /** A request whose prompt stands behind `context`. */
  generate(request: GenerateRequest, context: Int32Array, onSettled: OnSettled): Generation;
  save(path: string, state: SessionState, signal: AbortSignal | undefined): Promise<void>;
  checkUsable(): void;
}

/** A {@link Session} of an engine. */
export class LiveSession implements Session {
  readonly id: string = randomUUID();
  readonly #host: SessionHost;
  #state: SessionState;
  /** What is kept of its context. */
  #pin: BlockTable;
  #turn: Generation | undefined;
  #isClosed = false;

  constructor(host: SessionHost, state: SessionState) {
    this.#host = host;
    this.#state = state;
    this.#pin = host.blocks.keep(state.tokenIds, state.cacheSalt);
  }

  get messages(): readonly ChatMessage[] {
    return [...this.#state.messages];
  }

  get tokenIds(): Int32Array {
    return this.#state.tokenIds.slice();
  }

  chat(request: SessionChatRequest): Generation {
    this.#checkTurn("chat");
    checkObject("request", request);
    const { message, ...rest } = request;
    const messages = [...this.#state.messages, ...copyMessages("message", message)];
    const salted = { ...rest, messages, ...this.#salt };
    return this.#run((onSettled) => this.#host.chat(salted, onSettled), "chat", messages);
  }

  generate(request: SessionGenerateRequest): Generation {
    this.#checkTurn("text");
    checkObject("request", request);
    const { tokenIds } = this.#state;
    const addSpecialTokens = request.addSpecialTokens ?? tokenIds.length === 0;
    const salted = { ...request, addSpecialTokens, ...this.#salt };
    return this.#run((onSettled) => this.#host.generate(salted, tokenIds, onSettled), "text", []);
  }

  fork(): Session {
    this.#checkOpen();
    return new LiveSession(this.#host, this.#state);
  }

  truncate(to: { readonly numMessages: number } | { readonly numTokens: number }): void {
    this.#checkTurn(undefined);
    checkObject("to", to);
    const { numMessages, numTokens } = to as { numMessages?: unknown; numTokens?: unknown };
    const isChat = this.#state.kind === "chat";
    if (numTokens !== undefined && isChat) {
      throw argumentError("numTokens", "numMessages of a conversation", numTokens);
    }
    if (numTokens === undefined && !isChat) {
      throw argumentError("numTokens", "a number of tokens of a text", numTokens);
    }
    this.#replace(isChat ? this.#firstMessages(numMessages) : this.#firstTokens(numTokens));
  }

  async save(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    this.#checkOpen();
    checkObject("options", options);
    await this.#host.save(path, this.#state, checkSignal("signal", options.signal));
  }

  usage(): SessionUsage {
    return { tokens: this.#state.tokenIds.length, ...this.#host.blocks.usage(this.#pin) };
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#turn?.cancel();
    this.#host.blocks.giveUp(this.#pin);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #salt(): { readonly cacheSalt?: string } {
    const { cacheSalt } = this.#state;
    return cacheSalt === undefined ? {} : { cacheSalt };
  }

  /** @param messages - what has been said when the turn begins */
  #run(
    start: (onSettled: OnSettled) => Generation,
    kind: "chat" | "text",
    messages: readonly ChatMessage[],
  ): Generation {
    let isSettled = false; // it may have ended before it begins, where its signal was aborted
    const turn = start((result) => {
      isSettled = true;
      this.#turn = undefined;
      if (result !== undefined && !this.#isClosed) this.#append(result, kind, messages);
    });
    if (!isSettled) this.#turn = turn;
    return turn;
  }

  #append(result: GenerateResult, kind: "chat" | "text", said: readonly ChatMessage[]): void {
    const answer: ChatMessage[] =
      kind === "chat" ? [{ role: "assistant", content: result.text }] : [];
    const messages = [...said, ...answer];
    const tokenIds = Int32Array.from([...result.promptTokenIds, ...result.tokenIds]);
    const turn = { numMessages: messages.length, numTokens: tokenIds.length };
    const { cacheSalt } = this.#state;
    this.#replace({ kind, messages, tokenIds, turns: [...this.#state.turns, turn], cacheSalt });
  }

  /** The tokens of a conversation are those of its last turn that is left as a whole. */
  #firstMessages(count: unknown): SessionState {
    const { messages, turns, tokenIds } = this.#state;
    const numMessages = checkInteger("numMessages", count, { min: 0, max: messages.length });
    const left = turns.filter((turn) => turn.numMessages <= numMessages);
    return {
      ...this.#state,
      messages: messages.slice(0, numMessages),
      turns: left,
      tokenIds: tokenIds.slice(0, left.at(-1)?.numTokens ?? 0),
    };
  }

  #firstTokens(count: unknown): SessionState {
    const { tokenIds } = this.#state;
    const numTokens = checkInteger("numTokens", count, { min: 0, max: tokenIds.length });
    return { ...this.#state, tokenIds: tokenIds.slice(0, numTokens) };
  }

  #replace(state: SessionState): void {
    const { blocks } = this.#host;
    const pin = blocks.keep(state.tokenIds, state.cacheSalt);
    blocks.giveUp(this.#pin);
    this.#pin = pin;
    this.#state = state;
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new PagodaError("ERR_CLOSED", "The session is closed");
    this.#host.checkUsable();
  }

  #checkTurn(kind: "chat" | "text" | undefined): void {
    this.#checkOpen();
    if (this.#turn !== undefined) {
      throw new PagodaError("ERR_SESSION_BUSY", "The session's last turn has not ended yet");
    }
    const own = this.#state.kind;
    if (kind === undefined || own === undefined || own === kind) return;
    throw argumentError("session", kind === "chat" ? "a conversation" : "a text", own);
  }
}
