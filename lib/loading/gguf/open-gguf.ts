import { basename, dirname, join } from "node:path";
import { describe } from "../../errors.js";
import { ConfigReader } from "../config.js";
import { generationDefaults } from "../generation-config.js";
import type { ModelSource } from "../model-directory.js";
import { notFound, readExactly, throwIfAborted, withFile } from "../safetensors.js";
import type { Checkpoint } from "../safetensors.js";
import { corrupt, type TensorEntry } from "../safetensors-header.js";
import {
  ggufArchitecture,
  longRopeFactors,
  ropeFactors,
  shortRopeFactors,
  tensorName,
} from "./architectures.js";
import { readGgufHeader, type GgufHeader } from "./header.js";
import type { Metadata } from "./metadata.js";
import { ggufConfig, type RopeFactors } from "./model-config.js";
import { unsupportedInFile } from "./unsupported.js";
import { ggufTokenizer, type GgufTokenizerSource } from "./tokenizer-source.js";

/**
 * Opens a GGUF file, or the first of the files that a model is split into, as if it were a Hugging
 * Face directory: the metadata as config, tensors by their Hugging Face names. Of the weights only
 * the factors of the rotary embedding are read.
 *
 * @throws ERR_MODEL_NOT_FOUND, ERR_MODEL_CORRUPT, ERR_MODEL_UNSUPPORTED (architecture, tokenizer, or a
 * tensor that the architecture does not have), ERR_CONFIG_INVALID, ERR_ABORTED
 */
export async function openGguf(
  path: string,
  options: { signal?: AbortSignal } = {},
): Promise<ModelSource> {
  const headers = await readHeaders(path, options.signal);
  const { file, metadata } = headers[0]!;
  const header = { file, metadata, tensors: mergeTensors(headers) };
  const config = ggufConfig(header, await readRopeFactors(header));
  const tokenizer = ggufTokenizer(header);
  return {
    path,
    name: basename(path, ".gguf"),
    config,
    checkpoint: checkpointOf(headers, header),
    generation: generationDefaults(generationFields(header, tokenizer), config),
    tokenizer,
  };
}

async function readHeader(path: string): Promise<GgufHeader> {
  const header = await withFile(path, readGgufHeader);
  if (header !== undefined) return header;
  throw notFound(path, "does not exist");
}

/** The header of the file, and those of the files that it is continued in. */
async function readHeaders(path: string, signal: AbortSignal | undefined): Promise<GgufHeader[]> {
  const first = await readHeader(path);
  const count = splitNumber(first.metadata, "split.count") ?? 1;
  if (count <= 1) return [first];
  const [, stem] = /^(.*)-\d{5}-of-\d{5}\.gguf$/.exec(basename(path)) ?? [];
  if (stem === undefined || splitNumber(first.metadata, "split.no") !== 0) {
    const name = "whose name ends with -00001-of-N.gguf";
    throw unsupportedInFile(path, `a part of a split model; open the first file, ${name},`);
  }
  const headers = [first];
  for (let number = 1; number < count; number++) {
    throwIfAborted(signal);
    const [digits, total] = [number + 1, count].map((value) => String(value).padStart(5, "0"));
    const header = await readHeader(join(dirname(path), `${stem}-${digits}-of-${total}.gguf`));
    const { metadata, file } = header;
    const isNext = splitNumber(metadata, "split.no") === number;
    if (!isNext || splitNumber(metadata, "split.count") !== count) {
      throw corrupt(file.path, `it is not part ${number + 1} of ${count}`);
    }
    headers.push(header);
  }
  return headers;
}

function splitNumber(metadata: Metadata, key: string): number | undefined {
  const value = metadata.get(key);
  return typeof value === "number" ? value : undefined;
}

function mergeTensors(headers: readonly GgufHeader[]): ReadonlyMap<string, TensorEntry> {
  const [first] = headers;
  const tensors = new Map<string, TensorEntry>();
  for (const header of headers) {
    for (const [name, entry] of header.tensors) {
      if (tensors.has(name)) throw corrupt(entry.file, `tensor ${describe(name)} is in two files`);
      tensors.set(name, entry);
    }
  }
  const total = splitNumber(first!.metadata, "split.tensors.count") ?? tensors.size;
  if (headers.length === 1 || total === tensors.size) return tensors;
  throw corrupt(first!.file.path, `the files have ${tensors.size} of ${total} tensors`);
}

/** Tensors by their Hugging Face names. @throws ERR_MODEL_UNSUPPORTED for one without such a name */
function checkpointOf(headers: readonly GgufHeader[], header: GgufHeader): Checkpoint {
  const architecture = ggufArchitecture(header);
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of header.tensors) {
    const found = tensorName(architecture, name);
    if (found === null) {
      throw unsupportedInFile(
        entry.file,
        `tensor ${describe(name)}, unknown to this architecture,`,
      );
    }
    if (found !== undefined) tensors.set(found, entry);
  }
  return { files: headers.map(({ file }) => file), tensors };
}

/** No head has more. */
const maxRopeFactors = 256;

async function readRopeFactors(header: GgufHeader): Promise<RopeFactors> {
  return {
    all: await readFactors(header, ropeFactors),
    short: await readFactors(header, shortRopeFactors),
    long: await readFactors(header, longRopeFactors),
  };
}

/** F32 [rotaryDim / 2], if there is such a tensor. */
async function readFactors({ tensors }: GgufHeader, name: string): Promise<number[] | undefined> {
  const entry = tensors.get(name);
  if (entry === undefined) return undefined;
  const { file, dtype, shape, offset, bytes } = entry;
  if (dtype !== "F32" || shape.length !== 1 || bytes > 4 * maxRopeFactors) {
    throw corrupt(file, `tensor ${name} is not a list of at most ${maxRopeFactors} F32`);
  }
  const data = await withFile(file, (handle, checked) =>
    readExactly(handle, checked, offset, bytes),
  );
  if (data === undefined) throw notFound(file, "does not exist");
  return Array.from({ length: bytes / 4 }, (_, i) => data.readFloatLE(4 * i));
}

/** As in generation_config.json. */
function generationFields(
  { file, metadata }: GgufHeader,
  tokenizer: GgufTokenizerSource | undefined,
): ConfigReader {
  const { bos, eos, eot, eom, pad } = tokenizer?.specialIds ?? {};
  const fields = {
    eos_token_id: [eos, eot, eom].filter((id) => id !== undefined),
    bos_token_id: bos,
    pad_token_id: pad,
    temperature: metadata.get("general.sampling.temp"),
    top_k: metadata.get("general.sampling.top_k"),
    top_p: metadata.get("general.sampling.top_p"),
    min_p: metadata.get("general.sampling.min_p"),
    repetition_penalty: metadata.get("general.sampling.penalty_repeat"),
  };
  return new ConfigReader(fields, file.path);
}
