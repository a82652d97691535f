// The limits of the machine, and what a token costs at least.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { readGgufHeader } from "../../dist/loading/gguf/header.js";

const program = fileURLToPath(new URL("../../build/bench/machine-limits", import.meta.url));

/** Bytes and operations a second on this many threads in this minute; undefined where bench/limits.cc is not built. */
export function measureLimits(threads) {
  if (!existsSync(program)) return undefined;
  return JSON.parse(execFileSync(program, [`${threads}`], { encoding: "utf8" }));
}

/**
 * Of a GGUF file: `bytes` of weights that a decoded token reads, `operations` of a prompt's token, whose logits nobody asks
 * for, the type of most weights, and `contextLength` in tokens.
 */
export async function readModel(file) {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const { tensors, metadata } = await readGgufHeader(handle, { path: file, bytes: size });
    const architecture = metadata.get("general.architecture");
    const key = (name) => metadata.get(`${architecture}.${name}`);
    const expertShare = key("expert_used_count") / key("expert_count");
    return { ...costs([...tensors.values()], expertShare), contextLength: key("context_length") };
  } finally {
    await handle.close();
  }
}

/** A token reads, and is multiplied with, `expertShare` of the tensors that hold all experts. */
function costs(tensors, expertShare) {
  const matrices = tensors.filter(({ shape }) => shape.length >= 2);
  const isEmbedding = ({ name }) => name === "token_embd.weight";
  const hasHead = matrices.some(({ name }) => name === "output.weight");
  const read = tensors.filter((tensor) => !(hasHead && isEmbedding(tensor)));
  const layers = matrices.filter(({ name }) => name.startsWith("blk."));
  const shareOf = ({ name }) => (name.includes("_exps.") ? expertShare : 1);
  const elements = ({ shape }) => shape.reduce((product, size) => product * size, 1);
  return {
    bytes: sum(read.map((tensor) => shareOf(tensor) * tensor.bytes)),
    operations: 2 * sum(layers.map((tensor) => shareOf(tensor) * elements(tensor))),
    type: mostOf(layers),
  };
}

function mostOf(tensors) {
  const bytes = new Map();
  for (const { dtype, bytes: more } of tensors) bytes.set(dtype, (bytes.get(dtype) ?? 0) + more);
  return [...bytes].toSorted(([, a], [, b]) => b - a)[0][0];
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** What part of a limit (`compute` or `bandwidth`) so many tokens a second are. */
export function partOfLimit(kind, tokensPerSecond, model, limits) {
  if (kind === "bandwidth") return (tokensPerSecond * model.bytes) / limits.bandwidth;
  const peaks = { F32: limits.f32, F16: limits.f32, BF16: limits.bf16 };
  return (tokensPerSecond * model.operations) / (peaks[model.type] ?? limits.int8);
}
