import type { TokenizerFiles } from "../../lib/loading/tokenizer-files.js";
import { bool, list, text, u32, type GgufValue } from "./gguf-writer.js";

const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const;

export interface GgufTokenizerOptions {
  /** Of a byte-level tokenizer. */
  readonly pre?: string;
  readonly specialIds?: Readonly<Record<string, number>>;
  readonly flags?: Readonly<Record<string, boolean>>;
  readonly chatTemplate?: string;
}

/** A tokenizer.json as metadata of a GGUF file, converted as llama.cpp's script does. */
export function tokenizerMetadata(
  files: TokenizerFiles,
  options: GgufTokenizerOptions = {},
): Record<string, GgufValue> {
  const { tokenizer } = files;
  const vocab = new Map(Object.entries(tokenizer.model["vocab"] as Record<string, number>));
  for (const { id, content } of tokenizer.added_tokens) vocab.set(content, id);
  const tokens = [...vocab].toSorted((a, b) => a[1] - b[1]).map(([token]) => token);
  const added = new Map(tokenizer.added_tokens.map((token) => [token.id, token]));
  const isScored = tokenizer.model["byte_fallback"] === true;
  const types = tokens.map((token, id) => {
    const { content, special = false } = added.get(id) ?? {};
    if (content === "<unk>") return tokenTypes.unknown;
    if (content !== undefined) return special ? tokenTypes.control : tokenTypes.userDefined;
    const isByte = isScored && /^<0x[0-9A-F]{2}>$/.test(token);
    return isByte ? tokenTypes.byte : tokenTypes.normal;
  });
  const merges = (tokenizer.model["merges"] as (string | [string, string])[]).map(
    (merge): [string, string] =>
      typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge,
  );
  const { pre, specialIds = {}, flags = {}, chatTemplate } = options;
  return {
    "tokenizer.ggml.model": text(isScored ? "llama" : "gpt2"),
    ...(pre !== undefined && { "tokenizer.ggml.pre": text(pre) }),
    "tokenizer.ggml.tokens": list("string", tokens),
    "tokenizer.ggml.token_type": list("i32", types),
    ...(isScored
      ? { "tokenizer.ggml.scores": list("f32", scoresOf(tokens, merges)) }
      : {
          "tokenizer.ggml.merges": list(
            "string",
            merges.map((merge) => merge.join(" ")),
          ),
        }),
    ...Object.fromEntries(
      Object.entries(specialIds).map(([role, id]) => [`tokenizer.ggml.${role}_token_id`, u32(id)]),
    ),
    ...Object.fromEntries(
      Object.entries(flags).map(([name, value]) => [`tokenizer.ggml.${name}`, bool(value)]),
    ),
    ...(chatTemplate !== undefined && { "tokenizer.chat_template": text(chatTemplate) }),
  };
}

/** As sentencepiece gives them: less 1 from one merged token to the next; 0 for tokens that are not merged. */
function scoresOf(
  tokens: readonly string[],
  merges: readonly (readonly [string, string])[],
): number[] {
  const order = [...new Set(merges.map((merge) => merge.join("")))];
  const scores = new Map(order.map((token, rank) => [token, -rank]));
  return tokens.map((token) => scores.get(token) ?? 0);
}
