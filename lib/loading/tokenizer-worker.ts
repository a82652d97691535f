import { parentPort, workerData } from "node:worker_threads";
import { PagodaError } from "../errors.js";
import { renderChat } from "./chat-template.js";
import type { ChatRequest } from "./chat.js";
import { packDecodingData, unpackTokenTable } from "./decoding-data.js";
import { Detokenizer } from "./detokenizer.js";
import { Encoder } from "./encoder.js";
import { tokenTable, type TokenizerFiles } from "./tokenizer-files.js";
import { readTemplates, readTokenizer, type TokenizerSource } from "./tokenizer-source.js";
import type { TokenizerFacts, WorkerReply, WorkerSetup } from "./tokenizer-protocol.js";
import type { WorkerRequest, WorkerRequests } from "./tokenizer-protocol.js";

type Handlers = {
  readonly [K in keyof WorkerRequests]?: (
    input: WorkerRequests[K]["input"],
  ) => WorkerRequests[K]["output"];
};

function createHandlers(setup: WorkerSetup): Handlers {
  switch (setup.role) {
    case "encode":
      return encodeHandlers(setup.source);
    case "decode":
      return decodeHandlers();
    case "render":
      return {
        render: (request) => renderChat(setup.templates, JSON.parse(request) as ChatRequest),
      };
  }
}

function encodeHandlers(source: TokenizerSource): Handlers {
  let loaded: Encoder | undefined;
  const encoder = () => (loaded ??= new Encoder(readTokenizer(source)));
  return {
    loadEncoder: () => {
      const files = readTokenizer(source);
      loaded = new Encoder(files);
      const table = tokenTable(files);
      return { facts: findFacts(source, files, table), decoding: packDecodingData(files, table) };
    },
    encode: (input) => encoder().encode(input.text, input.addSpecialTokens, input.allowSpecialText),
  };
}

function decodeHandlers(): Handlers {
  let detokenizer: Detokenizer;
  return {
    loadDecoder: (data) => {
      detokenizer = new Detokenizer(data.files, unpackTokenTable(data));
    },
    decode: ({ ids, skipSpecialTokens }) => detokenizer.decode(ids, skipSpecialTokens),
    bytes: (ids) => detokenizer.bytes(ids),
    feed: ({ close, open, batch }) => {
      for (const id of close) detokenizer.closeStream(id);
      for (const stream of open) {
        detokenizer.openStream(stream.id, stream.prompt, stream.skipSpecialTokens);
      }
      return detokenizer.feed(batch);
    },
  };
}

function findFacts(
  source: TokenizerSource,
  files: TokenizerFiles,
  table: readonly (string | undefined)[],
): TokenizerFacts {
  const templates = readTemplates(source, files);
  const { bos_token: bos, eos_token: eos } = templates.variables;
  const eosId = typeof eos === "string" ? table.indexOf(eos) : -1;
  return {
    vocabSize: table.length,
    bosToken: typeof bos === "string" ? bos : undefined,
    eosTokenIds: files.eosTokenIds ?? (eosId < 0 ? [] : [eosId]),
    templates,
  };
}

function toReply(error: unknown): WorkerReply {
  if (PagodaError.is(error)) {
    const { code, message, details } = error;
    return { kind: "error", code, message, details };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { kind: "error", code: "ERR_TOKENIZER_INVALID", message, details: {} };
}

const port = parentPort!;
const setup = workerData as WorkerSetup;
let handlers: Handlers | undefined;

port.on("message", ({ name, input }: WorkerRequest) => {
  let reply: WorkerReply;
  try {
    handlers ??= createHandlers(setup);
    const handler = handlers[name] as ((input: unknown) => unknown) | undefined;
    reply = { kind: "result", output: handler?.(input) };
  } catch (error) {
    reply = toReply(error);
  }
  port.postMessage(reply);
});
port.postMessage({ kind: "ready" } satisfies WorkerReply);
