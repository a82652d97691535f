import type { TokenizerFiles } from "./tokenizer-files.js";
import { emptyModel } from "./tokenizer-library.js";

/** What decoding needs of a tokenizer, quick to copy to another thread. */
export interface DecodingData {
  /** Without the model and what else is for encoding. */
  readonly files: TokenizerFiles;
  /** Texts of all tokens, one after the other by id. */
  readonly text: string;
  /** UTF-16 units of each token, by id; -1 for an id that has none. */
  readonly lengths: Int32Array;
}

/** @param table text of each token, by id */
export function packDecodingData(
  { tokenizer, config }: TokenizerFiles,
  table: readonly (string | undefined)[],
): DecodingData {
  const unused = { model: emptyModel, normalizer: null, pre_tokenizer: null, post_processor: null };
  return {
    files: { tokenizer: { ...tokenizer, ...unused }, config },
    text: table.join(""),
    lengths: Int32Array.from(table, (token) => token?.length ?? -1),
  };
}

/** Text of each token, by id. */
export function unpackTokenTable({ text, lengths }: DecodingData): (string | undefined)[] {
  const table: (string | undefined)[] = [];
  let start = 0;
  for (const length of lengths) {
    table.push(length < 0 ? undefined : text.slice(start, start + length));
    start += Math.max(length, 0);
  }
  return table;
}
