import { readGgufTokenizer } from "./gguf/tokenizer-json.js";
import type { GgufTokenizerSource } from "./gguf/tokenizer-source.js";
import type { ChatTemplates } from "./chat.js";
import { readChatTemplates, readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.js";

/** Where a tokenizer is read from: the path of a model directory, or metadata of a GGUF file. */
export type TokenizerSource = string | GgufTokenizerSource;

/**
 * Synchronous: it runs in a worker.
 *
 * @param forEncoding - false: what only an encoder needs may be missing
 * @throws ERR_TOKENIZER_INVALID
 */
export function readTokenizer(source: TokenizerSource, forEncoding = true): TokenizerFiles {
  if (typeof source === "string") return readTokenizerFiles(source);
  return readGgufTokenizer(source, forEncoding);
}

/** The chat templates that stand beside the tokenizer. */
export function readTemplates(source: TokenizerSource, files: TokenizerFiles): ChatTemplates {
  return readChatTemplates(typeof source === "string" ? source : undefined, files);
}
