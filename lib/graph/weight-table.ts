import type { KeptDtype } from "./dtypes.js";
import type { PlanWeight, WeightKind, WeightPart } from "./plan.js";

/** A weight of a graph, in its logical shape `[rows, cols]`; vectors are `[1, cols]`. */
export interface Weight {
  /** Into {@link WeightTable.all}; tied weights share one. */
  readonly index: number;
  /** The name it was asked for by, which names the step that uses it. */
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
}

/** A weight before its dtype is chosen, unless it brings one with it. */
export interface GraphWeight extends Omit<PlanWeight, "dtype"> {
  readonly dtype?: KeptDtype;
}

/** The weights of one graph. Equal parts of a checkpoint (a tied embedding) are one weight. */
export class WeightTable {
  readonly #weights: GraphWeight[] = [];
  /** Weights that begin with the same rows of a tensor. */
  readonly #indicesByStart = new Map<string, number[]>();

  get all(): readonly GraphWeight[] {
    return this.#weights;
  }

  /** Rows of checkpoint tensors, stacked. A table that is asked for again as a matrix becomes a matrix. */
  rows(
    kind: "matrix" | "table",
    name: string,
    parts: readonly WeightPart[],
    more: { readonly cols: number; readonly dtype?: KeptDtype },
  ): Weight {
    const { cols } = more;
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const index = this.#find(parts, { name, kind, rows, ...more, source: { parts } });
    const found = this.#weights[index] as GraphWeight;
    if (kind === "matrix" && found.kind === "table") this.#weights[index] = { ...found, kind };
    return { index, name, rows, cols };
  }

  /** One-dimensional checkpoint tensors, joined. */
  vector(name: string, parts: readonly WeightPart[]): Weight {
    const cols = parts.reduce(
      (sum, { shape, strides }) => sum + (strides?.cols ?? shape[0] ?? 0),
      0,
    );
    const index = this.#find(parts, { name, kind: "vector", rows: 1, cols, source: { parts } });
    return { index, name, rows: 1, cols };
  }

  /** Data known now, `[rows, data.length / rows]`. */
  constant(kind: WeightKind, name: string, data: Float32Array, rows: number): Weight {
    const cols = data.length / rows;
    const index = this.#weights.push({ name, kind, rows, cols, source: { data } }) - 1;
    return { index, name, rows, cols };
  }

  #find(parts: readonly WeightPart[], weight: GraphWeight): number {
    const start = `${parts.length} ${parts[0]?.tensor} ${parts[0]?.rowStart}`;
    const indices = this.#indicesByStart.get(start) ?? [];
    const known = indices.find((index) => isSameSource(this.#weights[index], weight, parts));
    if (known !== undefined) return known;
    const index = this.#weights.push(weight) - 1;
    this.#indicesByStart.set(start, [...indices, index]);
    return index;
  }
}

function isSameSource(
  known: GraphWeight | undefined,
  { kind }: GraphWeight,
  parts: readonly WeightPart[],
): boolean {
  if (known === undefined || !("parts" in known.source)) return false;
  if ((known.kind === "vector") !== (kind === "vector")) return false;
  const others = known.source.parts;
  return others.length === parts.length && parts.every((part, i) => isSamePart(part, others[i]));
}

function isSamePart(a: WeightPart, b: WeightPart | undefined): boolean {
  return b !== undefined && a.tensor === b.tensor && JSON.stringify(a) === JSON.stringify(b);
}
