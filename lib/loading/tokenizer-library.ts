import { Tokenizer } from "@huggingface/tokenizers";

/**
 * What this package uses of `@huggingface/tokenizers`. Written out, as the library's declarations
 * do not resolve under TypeScript's `nodenext`.
 */
export interface LibraryTokenizer {
  model: LibraryModel;
  readonly pre_tokenizer: LibraryPreTokenizer | null;
  readonly decoder: LibraryDecoder | null;
  readonly post_processor: {
    post_process(
      tokens: readonly string[],
      pair: null,
      addSpecialTokens: boolean,
    ): { readonly tokens: string[] };
  } | null;
  /** An id is undefined where the tokenizer cannot spell the text and has no unknown token. */
  encode(
    text: string,
    options: { readonly add_special_tokens: boolean },
  ): { readonly ids: (number | undefined)[] };
  token_to_id(token: string): number | undefined;
}

export interface LibraryModel {
  vocab: (string | undefined)[];
  tokens_to_ids: Map<string, number>;
  unk_token_id?: number | undefined;
  encode(words: readonly string[]): string[];
}

export interface LibraryPreTokenizer {
  /** Of a byte-level pre-tokenizer: whether it splits by GPT-2's pattern. */
  readonly use_regex?: boolean;
  pattern?: RegExp;
  /** Of a sequence. */
  readonly tokenizers?: readonly LibraryPreTokenizer[];
}

export interface LibraryDecoder {
  decode(tokens: readonly string[]): string;
  /** Of byte-level and byte-fallback decoders. */
  text_decoder?: InstanceType<typeof TextDecoder>;
  /** Of a sequence. */
  readonly decoders?: readonly LibraryDecoder[];
}

/** A model that knows no token; for where only the other parts of a tokenizer are needed. */
export const emptyModel = { type: "BPE", vocab: {}, merges: [] } as const;

/**
 * Throws a plain error when the JSON is not usable. The vocabulary of a BPE model may be a map, too: through an object the
 * library would make one of it, which takes most of the time for a large one.
 */
export function createLibraryTokenizer(json: object, config: object): LibraryTokenizer {
  const { model } = json as { readonly model: { readonly vocab: unknown; unk_token?: string } };
  if (!(model.vocab instanceof Map)) return new Tokenizer(json, config) as LibraryTokenizer;
  const tokenizer = new Tokenizer({ ...json, model: { ...model, vocab: {} } }, config);
  const library = tokenizer as LibraryTokenizer;
  fillVocabulary(library.model, model.vocab as ReadonlyMap<string, number>);
  library.model.unk_token_id = library.model.tokens_to_ids.get(model.unk_token ?? "");
  return library;
}

/** Added tokens are there already and stay. */
function fillVocabulary(model: LibraryModel, tokens: ReadonlyMap<string, number>): void {
  const ids = new Map(tokens);
  const table: (string | undefined)[] = [];
  for (const [token, id] of tokens) table[id] = token;
  for (const [token, id] of model.tokens_to_ids) {
    ids.set(token, id);
    table[id] = token;
  }
  model.tokens_to_ids = ids;
  model.vocab = table;
}
