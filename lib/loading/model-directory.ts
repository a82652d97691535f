import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { argumentError } from "../errors.js";
import { readConfig, type ConfigReader } from "./config.js";
import { openGguf } from "./gguf/open-gguf.js";
import { readGenerationConfig, type GenerationDefaults } from "./generation-config.js";
import { notFound, readCheckpoint, throwIfAborted, type Checkpoint } from "./safetensors.js";
import { blocksOfMxfp4 } from "./mxfp4-directory.js";
import { readQuantization } from "./quantization-config.js";
import { blocksOfCodes } from "./quantized-directory.js";
import type { TokenizerSource } from "./tokenizer-source.js";

/** What is read of a model before its weights. The tokenizer loads beside them. */
export interface ModelSource {
  /** Absolute path of the directory or file. */
  readonly path: string;
  /** The directory's own name, or the file's without `.gguf`. */
  readonly name: string;
  readonly config: ConfigReader;
  readonly checkpoint: Checkpoint;
  readonly generation: GenerationDefaults;
  /** Where its tokenizer is, if it has one; undefined: it has none. */
  readonly tokenizer: TokenizerSource | undefined;
}

/**
 * Opens a Hugging Face model directory: config.json, generation_config.json and the headers of the
 * safetensors files. No weight is read.
 *
 * @throws ERR_ARGUMENT when `path` is not a string, ERR_MODEL_NOT_FOUND when it is missing or not a
 * directory, and the errors of the files in it.
 */
export async function openModelDirectory(
  path: string,
  options: { signal?: AbortSignal } = {},
): Promise<ModelSource> {
  throwIfAborted(options.signal);
  const root = checkPath(path);
  if (!(await isDirectory(root))) throw notFound(root, "is not a directory");
  const config = await readConfig(root);
  const generation = await readGenerationConfig(root, config);
  const scheme = readQuantization(config);
  const stored = await readCheckpoint(root, options);
  const checkpoint = await unpacked(stored, scheme);
  return { path: root, name: basename(root), config, checkpoint, generation, tokenizer: root };
}

/** With one tensor for each matrix, whatever it is stored as. */
async function unpacked(
  stored: Checkpoint,
  scheme: ReturnType<typeof readQuantization>,
): Promise<Checkpoint> {
  if (scheme === undefined) return stored;
  return scheme.method === "mxfp4" ? blocksOfMxfp4(stored) : blocksOfCodes(stored, scheme);
}

/**
 * Opens a model: a Hugging Face directory as {@link openModelDirectory}, or a GGUF file as
 * {@link openGguf}.
 */
export async function openModel(
  path: string,
  options: { signal?: AbortSignal } = {},
): Promise<ModelSource> {
  throwIfAborted(options.signal);
  const root = checkPath(path);
  if (await isDirectory(root)) return openModelDirectory(root, options);
  if (root.endsWith(".gguf")) return openGguf(root, options);
  throw notFound(root, "is neither a directory nor a .gguf file");
}

/** Absolute. @throws ERR_ARGUMENT */
function checkPath(path: unknown): string {
  if (typeof path === "string" && path !== "" && !path.includes("\0")) return resolve(path);
  throw argumentError("model", "the path of a directory or of a .gguf file", path);
}

/** @throws ERR_MODEL_NOT_FOUND when there is nothing */
async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    throw notFound(path, `cannot be read: ${(cause as Error).message}`, cause);
  }
}
