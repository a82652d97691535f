import { argumentError } from "../errors.js";
import { invalidTokenizer, specialContents } from "./tokenizer-files.js";
import type { TokenizerFiles } from "./tokenizer-files.js";
import { createLibraryTokenizer, emptyModel } from "./tokenizer-library.js";
import type { LibraryPreTokenizer, LibraryTokenizer } from "./tokenizer-library.js";

/** Text to token ids. */
export class Encoder {
  readonly #full: LibraryTokenizer;
  /** The same tokenizer, blind to special tokens in the text. */
  readonly #plain: LibraryTokenizer;
  readonly #special: ReadonlySet<string>;
  /** Ids that the post-processor puts around a sequence. */
  readonly #before: readonly number[];
  readonly #after: readonly number[];

  /** @throws ERR_TOKENIZER_INVALID */
  constructor(files: TokenizerFiles) {
    this.#special = specialContents(files);
    try {
      this.#full = createTokenizer(files.tokenizer, files.config);
      this.#plain = createPlain(files, this.#full, this.#special);
      [this.#before, this.#after] = frame(this.#full);
    } catch (cause) {
      const reason = `it is not usable: ${(cause as Error).message}`;
      throw invalidTokenizer("tokenizer.json", reason, cause);
    }
  }

  /** @throws ERR_ARGUMENT when the text cannot be encoded, e.g. one word of many megabytes. */
  encode(text: string, addSpecialTokens: boolean, allowSpecialText: boolean): Int32Array {
    let ids: number[];
    try {
      ids = allowSpecialText ? encodeWith(this.#full, text) : this.#encodePlain(text);
    } catch (cause) {
      const expected = `a text that the tokenizer can encode (${(cause as Error).message})`;
      throw argumentError("text", expected, text.slice(0, 50));
    }
    return Int32Array.from(addSpecialTokens ? [...this.#before, ...ids, ...this.#after] : ids);
  }

  /** Should the model itself still find a special token, then it is spelled out by characters. */
  #encodePlain(text: string): number[] {
    const ids = encodeWith(this.#plain, text);
    const { model } = this.#full;
    return ids.flatMap((id) => {
      const token = model.vocab[id];
      if (token === undefined || !this.#special.has(token)) return [id];
      return [...token].flatMap((character) => idsOf(this.#full, model.encode([character])));
    });
  }
}

function encodeWith(tokenizer: LibraryTokenizer, text: string): number[] {
  const { ids } = tokenizer.encode(text, { add_special_tokens: false });
  return ids.filter((id) => id !== undefined);
}

function idsOf(tokenizer: LibraryTokenizer, tokens: readonly string[]): number[] {
  const ids = tokens.map((token) => tokenizer.token_to_id(token));
  return ids.filter((id) => id !== undefined);
}

function createTokenizer(json: object, config: object): LibraryTokenizer {
  const tokenizer = createLibraryTokenizer(json, config);
  if (tokenizer.pre_tokenizer !== null) useUnicodeSpaces(tokenizer.pre_tokenizer);
  return tokenizer;
}

/** GPT-2's pattern for words. */
const words =
  /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The library splits by JavaScript's `\s`, which has U+FEFF but not U+0085; Unicode's is right. */
function useUnicodeSpaces(preTokenizer: LibraryPreTokenizer): void {
  if (preTokenizer.use_regex === true) preTokenizer.pattern = words;
  preTokenizer.tokenizers?.forEach(useUnicodeSpaces);
}

/** Shares the model, which holds nearly all the memory. */
function createPlain(
  { tokenizer, config }: TokenizerFiles,
  full: LibraryTokenizer,
  special: ReadonlySet<string>,
): LibraryTokenizer {
  const added = tokenizer.added_tokens.filter(({ content }) => !special.has(content));
  const json = { ...tokenizer, added_tokens: added, model: emptyModel };
  const plain = createTokenizer(json, config);
  plain.model = full.model;
  return plain;
}

/** What the post-processor puts before and after a sequence. */
function frame(tokenizer: LibraryTokenizer): [before: number[], after: number[]] {
  const sequence = "\u0000";
  const tokens = tokenizer.post_processor?.post_process([sequence], null, true).tokens ?? [
    sequence,
  ];
  const at = tokens.indexOf(sequence);
  return [idsOf(tokenizer, tokens.slice(0, at)), idsOf(tokenizer, tokens.slice(at + 1))];
}
