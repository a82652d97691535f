import type { Graph, Tensor, Value } from "./graph.js";
import type { Op } from "./ops.js";
import type { Operand, Rows } from "./plan.js";

const alignment = 64; // bytes: a cache line, the widest vector
const bytesPerElement = 4; // activations are f32

/** Inputs whose place the output may take, where native/backend.h says so. */
const inPlaceInputs: Partial<Record<Op, readonly number[]>> = {
  rmsNorm: [0],
  rope: [0],
  add: [0, 1],
};

export interface Arena {
  readonly bytes: number;
  operand(tensor: Tensor): Operand;
}

/**
 * Gives every value of the graph its place in one arena so that no value is overwritten before its last use. Values may
 * take the place of an input that dies (in-place ops); all others get the lowest free range, in the order of the steps.
 */
export function layOutArena(graph: Graph, maxRows: Readonly<Record<Rows, number>>): Arena {
  const places = placeValues(graph);
  const { offsets, bytes } = allocate(graph, places, maxRows);
  return {
    bytes,
    operand(tensor) {
      const { root, column } = at(places, tensor.value);
      const offset = at(offsets, root) + (column + tensor.start) * bytesPerElement;
      const rowStride = at(graph.values, root).width;
      return { offset, rows: tensor.rows, width: tensor.width, rowStride };
    },
  };
}

// ---- places: which values share memory

/** Where a value lies: from `column` on in the rows of `root`, a value that has memory of its own. */
interface Place {
  readonly root: number;
  readonly column: number;
}

/** A step reads a tensor. */
interface Read {
  readonly step: number;
  readonly input: number;
  readonly tensor: Tensor;
}

function placeValues(graph: Graph): Place[] {
  const reads = readsOfValues(graph);
  const places: Place[] = [];
  /** For each root, the reads of all values in its memory. */
  const rootReads = new Map<number, Read[]>();
  for (const [index, value] of graph.values.entries()) {
    const place = inPlace(graph, value.step, places, rootReads) ?? { root: index, column: 0 };
    places.push(place);
    rootReads.set(place.root, [...(rootReads.get(place.root) ?? []), ...at(reads, index)]);
  }
  return places;
}

function readsOfValues(graph: Graph): Read[][] {
  const reads: Read[][] = graph.values.map(() => []);
  for (const [step, { inputs }] of graph.steps.entries()) {
    for (const [input, tensor] of inputs.entries())
      at(reads, tensor.value).push({ step, input, tensor });
  }
  return reads;
}

/** The place of the first input that the step's output may take, if any: nothing else reads its columns any more. */
function inPlace(
  graph: Graph,
  step: number,
  places: readonly Place[],
  rootReads: ReadonlyMap<number, readonly Read[]>,
): Place | undefined {
  const { op, inputs } = at(graph.steps, step);
  const allowed = inPlaceInputs[op] ?? [];
  for (const index of allowed) {
    const x = columnsInRoot(places, at(inputs, index));
    const stillRead = (rootReads.get(x.root) ?? []).some((read) => {
      if (read.step < step) return false;
      const other = columnsInRoot(places, read.tensor);
      const isX = read.step === step && allowed.includes(read.input) && sameColumns(other, x);
      return !isX && shareColumns(other, x);
    });
    if (!stillRead) return { root: x.root, column: x.start };
  }
  return undefined;
}

/** Columns `[start, end)` of a root value. */
interface Columns {
  readonly root: number;
  readonly start: number;
  readonly end: number;
}

function columnsInRoot(places: readonly Place[], tensor: Tensor): Columns {
  const { root, column } = at(places, tensor.value);
  const start = column + tensor.start;
  return { root, start, end: start + tensor.width };
}

function sameColumns(a: Columns, b: Columns): boolean {
  return a.root === b.root && a.start === b.start && a.end === b.end;
}

function shareColumns(a: Columns, b: Columns): boolean {
  return a.root === b.root && a.start < b.end && b.start < a.end;
}

// ---- allocation: where the roots lie

/** Memory of one root value, `[offset, end)` in bytes, until the step `last`. */
interface Allocation {
  readonly last: number;
  readonly offset: number;
  readonly end: number;
}

function allocate(
  graph: Graph,
  places: readonly Place[],
  maxRows: Readonly<Record<Rows, number>>,
): { offsets: number[]; bytes: number } {
  const lastUses = lastUsesOfRoots(graph, places);
  const offsets: number[] = [];
  let live: Allocation[] = [];
  let bytes = 0;
  for (const [index, value] of graph.values.entries()) {
    if (at(places, index).root !== index) continue;
    live = live.filter((allocation) => allocation.last >= value.step);
    const size = align(maxRows[value.rows] * value.width * bytesPerElement);
    const offset = firstFit(size, live);
    live.push({ last: at(lastUses, index), offset, end: offset + size });
    offsets[index] = offset;
    bytes = Math.max(bytes, offset + size);
  }
  return { offsets, bytes };
}

/** For each root value the last step that reads a value in its memory, or writes its own. */
function lastUsesOfRoots(graph: Graph, places: readonly Place[]): number[] {
  const last = graph.values.map((value: Value) => value.step);
  for (const [step, { inputs }] of graph.steps.entries()) {
    for (const tensor of inputs) last[at(places, tensor.value).root] = step;
  }
  return last;
}

/** Lowest offset from which on `size` bytes keep clear of all `taken`. */
function firstFit(size: number, taken: readonly Allocation[]): number {
  let offset = 0;
  for (const other of [...taken].sort((a, b) => a.offset - b.offset)) {
    if (offset + size <= other.offset) break;
    offset = Math.max(offset, other.end);
  }
  return offset;
}

function align(bytes: number): number {
  return Math.ceil(bytes / alignment) * alignment;
}

/** The element at an index that is known to exist. */
function at<T>(list: readonly T[], index: number): T {
  return list[index] as T;
}
