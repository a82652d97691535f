/** How a byte-level BPE tokenizer cuts a text before it merges. */
export interface PreTokenizer {
  /** Patterns that are applied one after another, each to what the ones before have left whole. */
  readonly splits: readonly string[];
  /** Whether a word that is a token is taken as it is. */
  readonly ignoresMerges?: boolean;
  /** Whether a BOS token stands before each text if the file does not say. */
  readonly addsBos?: boolean;
  /** Unicode normal form of the text. */
  readonly normalizer?: "NFC";
}

const contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const spaces = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const gpt2Words =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const threeDigits = "[0-9][0-9][0-9]";

/** Words with at most one sign before them, numbers of `digits`. */
function words(digits: string): string {
  return `${contraction}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${spaces}`;
}

/** Words that may begin with capitals and go on in small letters. */
function casedWords(digits: string, suffix: string): string {
  const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
  const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
  const before = "[^\\r\\n\\p{L}\\p{N}]?";
  const cased = `${before}${upper}*${lower}+${suffix}|${before}${upper}+${lower}*${suffix}`;
  return `${cased}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${spaces}`;
}

const deepseekWords =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" +
  `| ?[\\p{P}\\p{S}]+[\\r\\n]*|${spaces}`;
const cjkAndHangul = "[一-龥ࠀ-一가-퟿]+";

const gpt2: PreTokenizer = { splits: [gpt2Words] };
const gpt2SingleDigits: PreTokenizer = { splits: ["\\p{N}", gpt2Words] };
const cl100k: PreTokenizer = { splits: [words("\\p{N}{1,3}")] };
const llama3: PreTokenizer = { ...cl100k, ignoresMerges: true, addsBos: true };
const singleDigits: PreTokenizer = { splits: [words("\\p{N}")] };
const qwen2: PreTokenizer = { ...singleDigits, normalizer: "NFC" };
const o200k: PreTokenizer = { splits: [casedWords("\\p{N}{1,3}", `${contraction}?`)] };
const deepseek3: PreTokenizer = {
  splits: ["\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", deepseekWords],
};

const groups: readonly (readonly [PreTokenizer, readonly string[]])[] = [
  [gpt2, ["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "gigachat", "mellum", "trillion"]],
  [gpt2SingleDigits, ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"]],
  [gpt2SingleDigits, ["minerva-7b"]],
  [
    llama3,
    ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
  ],
  [cl100k, ["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"]],
  [qwen2, ["qwen2", "deepseek-r1-qwen", "megrez", "kormo"]],
  [singleDigits, ["stablelm2", "hunyuan", "grok-2"]],
  [o200k, ["gpt-4o", "llama4"]],
  [{ splits: [casedWords("\\p{N}", "")], ignoresMerges: true, addsBos: true }, ["tekken"]],
  [deepseek3, ["deepseek-v3", "hunyuan-dense"]],
  [
    {
      splits: [
        "[\\r\\n]",
        "\\s?[\\p{Lu}\\p{Ll}\\p{Lt}]+",
        "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
        "\\s+$",
        cjkAndHangul,
        "\\p{N}+",
      ],
    },
    ["deepseek-llm"],
  ],
  [
    { splits: ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", cjkAndHangul, "\\p{N}"] },
    ["deepseek-coder"],
  ],
  [{ splits: ["[\\p{P}$+<=>^~|`]+", gpt2Words, threeDigits] }, ["falcon"]],
  [{ splits: ["[\\p{P}$+<=>^~|]+", gpt2Words, "\\p{N}+", threeDigits] }, ["default"]],
];

/** By `tokenizer.ggml.pre`; a file that leaves it out means `default`. */
export const preTokenizers: ReadonlyMap<string, PreTokenizer> = new Map(
  groups.flatMap(([preTokenizer, names]) => names.map((name) => [name, preTokenizer] as const)),
);
