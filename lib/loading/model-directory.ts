import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { argumentError, PagodaError } from "../errors.js";
import { readConfig, type ConfigReader } from "./config.js";
import { readGenerationConfig, type GenerationDefaults } from "./generation-config.js";
import { readCheckpoint, throwIfAborted, type Checkpoint } from "./safetensors.js";

/** Everything of a model directory but the tokenizer, which loads beside it. */
export interface ModelDirectory {
  /** Absolute path. */
  readonly path: string;
  /** The directory's own name. */
  readonly name: string;
  readonly config: ConfigReader;
  readonly checkpoint: Checkpoint;
  readonly generation: GenerationDefaults;
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
): Promise<ModelDirectory> {
  throwIfAborted(options.signal);
  if (typeof path !== "string" || path === "" || path.includes("\0")) {
    throw argumentError("model", "the path of a directory", path);
  }
  const root = resolve(path);
  await checkDirectory(root);
  const config = await readConfig(root);
  const generation = await readGenerationConfig(root, config);
  const checkpoint = await readCheckpoint(root, options);
  return { path: root, name: basename(root), config, checkpoint, generation };
}

async function checkDirectory(path: string): Promise<void> {
  let isDirectory = false;
  try {
    isDirectory = (await stat(path)).isDirectory();
  } catch (cause) {
    const message = `${path} cannot be read: ${(cause as Error).message}`;
    throw new PagodaError("ERR_MODEL_NOT_FOUND", message, { cause, details: { path } });
  }
  if (isDirectory) return;
  throw new PagodaError("ERR_MODEL_NOT_FOUND", `${path} is not a directory`, { details: { path } });
}
