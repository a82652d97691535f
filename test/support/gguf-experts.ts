import type { GgufTensor } from "./gguf-writer.js";

/**
 * Tensors of experts, named as in Hugging Face, as GGUF files hold them: of each matrix one tensor `[experts, rows, cols]`.
 * Those of gpt-oss are transposed, and gate and up, whose outputs stand there in turns, become tensors of their own.
 */
export function stackExperts(tensors: readonly GgufTensor[]): GgufTensor[] {
  const stacks = new Map<string, GgufTensor[]>();
  const others = tensors.flatMap((tensor) => {
    const single = /^(.*\.experts\.)(\d+)\.(.*)$/.exec(tensor.name);
    if (single === null)
      return tensor.name.includes(".experts.") ? partsOfGptOss(tensor) : [tensor];
    const [, path = "", expert, rest = ""] = single;
    const name = path + rest;
    if (!stacks.has(name)) stacks.set(name, []);
    stacks.get(name)![Number(expert)] = tensor;
    return [];
  });
  const stacked = [...stacks].map(([name, parts]): GgufTensor => {
    const [{ type, shape }] = parts as [GgufTensor];
    const data = Buffer.concat(parts.map((part) => part.data));
    return { name, type, shape: [parts.length, ...shape], data };
  });
  return [...others, ...stacked];
}

/** `gate_up_proj` [experts, inputs, 2 * outputs], `down_proj` [experts, inputs, outputs], and their biases. */
function partsOfGptOss(tensor: GgufTensor): GgufTensor[] {
  const [, path = "", name = "", isBias] = /^(.*\.)(\w+?_proj)(_bias)?$/.exec(tensor.name)!;
  const stored = isBias === undefined ? transposed(tensor) : tensor;
  const kind = isBias === undefined ? "weight" : "bias";
  if (name === "down_proj") return [{ ...stored, name: `${path}down_proj.${kind}` }];
  return ["gate_proj", "up_proj"].map((part, turn) =>
    everySecond(`${path}${part}.${kind}`, stored, turn),
  );
}

/** `[experts, cols, rows]` as `[experts, rows, cols]`. */
function transposed(tensor: GgufTensor): GgufTensor {
  const [experts, cols, rows] = tensor.shape as [number, number, number];
  const bytes = tensor.data.length / (experts * rows * cols);
  const data = Buffer.alloc(tensor.data.length);
  for (let i = 0; i < experts * rows * cols; i++) {
    const [expert, row, col] = [
      Math.floor(i / (rows * cols)),
      Math.floor(i / cols) % rows,
      i % cols,
    ];
    const from = (expert * rows * cols + col * rows + row) * bytes;
    data.set(tensor.data.subarray(from, from + bytes), i * bytes);
  }
  return { ...tensor, shape: [experts, rows, cols], data };
}

/** Of the second dimension the elements `first`, `first + 2`, ..., as a tensor of that name. */
function everySecond(name: string, tensor: GgufTensor, first: number): GgufTensor {
  const [experts, length, ...rest] = tensor.shape as [number, number, ...number[]];
  const bytes = tensor.data.length / (experts * length);
  const count = (experts * length) / 2;
  const rows = Array.from({ length: count }, (_, i) => 2 * i + first);
  const data = Buffer.concat(rows.map((i) => tensor.data.subarray(i * bytes, (i + 1) * bytes)));
  return { name, type: tensor.type, shape: [experts, length / 2, ...rest], data };
}
