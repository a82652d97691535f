import { invalidTokenizer, type AddedToken, type TokenizerFiles } from "../tokenizer-files.js";
import { readNumbers, readStrings } from "./arrays.js";
import { preTokenizers, type PreTokenizer } from "./pre-tokenizers.js";
import { scoredMerges } from "./scored-merges.js";
import type { GgufTokenizerSource, SpecialRole } from "./tokenizer-source.js";

/** Kinds of tokens in `tokenizer.ggml.token_type`. */
const tokenTypes = {
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/** Control tokens with these texts end a sequence, also where the file does not name them. */
const endTexts: ReadonlySet<string> = new Set([
  "<|eot_id|>",
  "<|eom_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<end_of_turn>",
  "<end_of_utterance>",
  "<｜end▁of▁sentence｜>",
  "<EOT>",
]);

/** The vocabulary, read from the file. */
interface Vocabulary {
  /** By id; empty where there is no text, or where an earlier token has the same. */
  readonly tokens: readonly string[];
  /** By id. */
  readonly types: Float64Array;
  readonly ids: ReadonlyMap<string, number>;
}

/**
 * The tokenizer of a GGUF file in the form of tokenizer.json and tokenizer_config.json, so that one
 * tokenizer serves both kinds of model. Synchronous: it runs in a worker.
 *
 * @param forEncoding - whether merges are wanted; they take most of the time
 * @throws ERR_TOKENIZER_INVALID
 */
export function readGgufTokenizer(source: GgufTokenizerSource, forEncoding = true): TokenizerFiles {
  const vocabulary = readVocabulary(source);
  const kind = source.model === "gpt2" ? byteLevel : scored;
  const json = kind(source, vocabulary, forEncoding);
  const { chatTemplates } = source;
  const named = Object.entries(chatTemplates).map(([name, template]) => ({ name, template }));
  const text = (role: SpecialRole): string | undefined =>
    vocabulary.tokens[source.specialIds[role] ?? -1];
  return {
    tokenizer: {
      added_tokens: addedTokens(vocabulary),
      post_processor: postProcessor(source, vocabulary, json.addsBos),
      ...json.parts,
    },
    config: {
      bos_token: text("bos"),
      eos_token: text("eos"),
      unk_token: text("unk"),
      pad_token: text("pad"),
      chat_template: named,
    },
    eosTokenIds: endIds(source, vocabulary),
  };
}

function readVocabulary({
  file,
  tokens: region,
  types: typeRegion,
}: GgufTokenizerSource): Vocabulary {
  const tokens = readStrings(file, region);
  const types = readNumbers(file, typeRegion) ?? new Float64Array(tokens.length);
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (token === "" || ids.has(token)) tokens[id] = "";
    else ids.set(token, id);
  }
  return { tokens, types, ids };
}

/** What the two kinds of tokenizers differ in. */
interface TokenizerKind {
  /** Whether a BOS token stands before each text if the file does not say. */
  readonly addsBos: boolean;
  readonly parts: Pick<
    TokenizerFiles["tokenizer"],
    "model" | "normalizer" | "pre_tokenizer" | "decoder"
  >;
}

/** GPT-2's kind: each byte is a letter. */
function byteLevel(
  source: GgufTokenizerSource,
  vocabulary: Vocabulary,
  forEncoding: boolean,
): TokenizerKind {
  const pre = preTokenizers.get(source.pre)!;
  const merges = forEncoding ? readMerges(source) : [];
  return {
    addsBos: pre.addsBos ?? false,
    parts: {
      model: { ...bpe(vocabulary), ignore_merges: pre.ignoresMerges ?? false, merges },
      normalizer: pre.normalizer === undefined ? null : { type: pre.normalizer },
      pre_tokenizer: preTokenizerJson(pre, source.addSpacePrefix ?? false),
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    },
  };
}

function readMerges({ file, merges: region }: GgufTokenizerSource): string[] {
  if (region === undefined) throw invalidTokenizer(file, "it has no merges");
  const merges = readStrings(file, region);
  const broken = merges.find((merge) => !/^[^ ]+ [^ ]+$/.test(merge));
  if (broken === undefined) return merges;
  throw invalidTokenizer(file, `${JSON.stringify(broken.slice(0, 50))} is not a merge`);
}

function preTokenizerJson({ splits }: PreTokenizer, addPrefixSpace: boolean): object {
  const pretokenizers: object[] = splits.map((regex) => {
    return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
  });
  const options = { add_prefix_space: addPrefixSpace, trim_offsets: true, use_regex: false };
  pretokenizers.push({ type: "ByteLevel", ...options });
  return { type: "Sequence", pretokenizers };
}

/** Sentencepiece's kind: merges follow from scores, what no token spells is spelled by its bytes. */
function scored(
  source: GgufTokenizerSource,
  vocabulary: Vocabulary,
  forEncoding: boolean,
): TokenizerKind {
  const scores = readNumbers(source.file, source.scores);
  if (scores === undefined) throw invalidTokenizer(source.file, "it has no scores");
  const { tokens, types } = vocabulary;
  const isMerged = (id: number): boolean =>
    types[id] === tokenTypes.normal || types[id] === 0 || types[id] === tokenTypes.userDefined;
  const addPrefix = source.addSpacePrefix ?? true;
  const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const prepend = { type: "Prepend", prepend: "▁" };
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
  return {
    addsBos: true,
    parts: {
      model: {
        ...bpe(vocabulary),
        byte_fallback: true,
        fuse_unk: true,
        unk_token: tokens[source.specialIds.unk ?? types.indexOf(tokenTypes.unknown)] || null,
        merges: forEncoding ? scoredMerges(vocabulary.ids, scores, isMerged) : [],
      },
      normalizer: { type: "Sequence", normalizers: addPrefix ? [prepend, spaces] : [spaces] },
      pre_tokenizer: null,
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          ...(addPrefix ? [strip] : []),
        ],
      },
    },
  };
}

function bpe({ ids }: Vocabulary): Readonly<Record<string, unknown>> {
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab: ids,
  };
}

/** Tokens that are found in a text as they stand, before anything else; spaces are spaces there. */
function addedTokens({ tokens, types }: Vocabulary): AddedToken[] {
  const added: AddedToken[] = [];
  for (const [id, token] of tokens.entries()) {
    const isSpecial = types[id] === tokenTypes.control || types[id] === tokenTypes.unknown;
    if (token === "" || !(isSpecial || types[id] === tokenTypes.userDefined)) continue;
    const content = isSpecial ? token : token.replaceAll("▁", " ");
    added.push({ ...addedToken, id, content, special: isSpecial });
  }
  return added;
}

const addedToken = { single_word: false, lstrip: false, rstrip: false, normalized: false } as const;

/** BOS and EOS around a text, as the file or its kind of tokenizer has it. */
function postProcessor(
  { file, specialIds, addBos, addEos }: GgufTokenizerSource,
  { tokens }: Vocabulary,
  addsBos: boolean,
): object | null {
  const templateTokens = (
    role: SpecialRole,
    flag: boolean | undefined,
    fallback: boolean,
  ): TemplateToken[] => {
    const id = (flag ?? fallback) ? specialIds[role] : undefined;
    if (flag === true && id === undefined) throw invalidTokenizer(file, `it has no ${role} token`);
    return id === undefined || tokens[id] === "" ? [] : [{ id: tokens[id]!, ids: [id] }];
  };
  const before = templateTokens("bos", addBos, addsBos);
  const after = templateTokens("eos", addEos, false);
  const special = [...before, ...after];
  if (special.length === 0) return null;
  const item = ({ id }: TemplateToken): object => ({ SpecialToken: { id, type_id: 0 } });
  const sequence = { Sequence: { id: "A", type_id: 0 } };
  return {
    type: "TemplateProcessing",
    single: [...before.map(item), sequence, ...after.map(item)],
    pair: [],
    special_tokens: Object.fromEntries(
      special.map(({ id, ids }) => [id, { id, ids, tokens: [id] }]),
    ),
  };
}

interface TemplateToken {
  readonly id: string;
  readonly ids: readonly number[];
}

function endIds({ specialIds }: GgufTokenizerSource, { tokens, types }: Vocabulary): number[] {
  const { eos, eot, eom } = specialIds;
  const ids = new Set([eos, eot, eom].filter((id) => id !== undefined));
  for (const [id, token] of tokens.entries()) {
    if (types[id] === tokenTypes.control && endTexts.has(token)) ids.add(id);
  }
  return [...ids];
}
