import type { ChatTemplates } from "./chat.js";
import type { DecodingData } from "./decoding-data.js";
import type { StreamInput, StreamOutput } from "./tokenizer.js";
import type { TokenizerSource } from "./tokenizer-source.js";

/**
 * What a worker does. Three, so that none can hold up another: encoding a long prompt takes a
 * second, streams must flow meanwhile, and a chat template may never end.
 */
export type WorkerSetup =
  | { readonly role: "encode"; readonly source: TokenizerSource }
  | { readonly role: "decode" }
  | { readonly role: "render"; readonly templates: ChatTemplates };

/** Facts that the encoding worker finds when it loads. */
export interface TokenizerFacts {
  readonly vocabSize: number;
  readonly bosToken: string | undefined;
  readonly eosTokenIds: readonly number[];
  readonly templates: ChatTemplates;
}

export interface StreamOpening {
  readonly id: number;
  /** The tail of the prompt. */
  readonly prompt: readonly number[];
  readonly skipSpecialTokens: boolean;
}

/** Requests by name: what is sent and what comes back. */
export interface WorkerRequests {
  /** Loads the files, for both workers; without it the first text to encode does. */
  loadEncoder: {
    input: undefined;
    output: { readonly facts: TokenizerFacts; readonly decoding: DecodingData };
  };
  /** Comes before all that is decoded. */
  loadDecoder: { input: DecodingData; output: void };
  encode: {
    input: { text: string; addSpecialTokens: boolean; allowSpecialText: boolean };
    output: Int32Array;
  };
  decode: { input: { ids: Int32Array; skipSpecialTokens: boolean }; output: string };
  /** The bytes of each token by itself. */
  bytes: { input: number[]; output: Uint8Array[] };
  /** Closes, then opens, then feeds. */
  feed: {
    input: { close: number[]; open: StreamOpening[]; batch: readonly StreamInput[] };
    output: StreamOutput[];
  };
  /** A {@link ChatRequest} as JSON. */
  render: { input: string; output: string };
}

export type RequestName = keyof WorkerRequests;

export interface WorkerRequest<K extends RequestName = RequestName> {
  readonly name: K;
  readonly input: WorkerRequests[K]["input"];
}

export type WorkerReply =
  | { readonly kind: "ready" }
  | { readonly kind: "result"; readonly output: unknown }
  | {
      readonly kind: "error";
      readonly code: string;
      readonly message: string;
      readonly details: Readonly<Record<string, unknown>>;
    };
