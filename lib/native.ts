import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { SamplingInput, StepInput } from "./engine/step.js";
import { PagodaError } from "./errors.js";
import type { FileDtype } from "./graph/dtypes.js";
import type { Plan } from "./graph/plan.js";

/** The whole surface of the native addon. Nothing but this file touches the .node file. */
export interface NativeAddon {
  /** Version of native/backend.h. */
  readonly abiVersion: number;
  /** Op name to the names of its attributes, as the plan runner reads them. */
  readonly ops: Readonly<Record<string, readonly string[]>>;
  /** Looks for backends: "cpu" is built in; `plugins` are paths of shared libraries. Never throws for a bad plug-in. */
  backends(plugins: readonly string[]): BackendReport[];
  readonly NativeEngine: new (options: NativeEngineOptions, onWake: () => void) => NativeEngine;
}

/** A backend and whether it can be used here. */
export interface BackendReport {
  readonly name: string;
  readonly available: boolean;
  /** Why it is not available. */
  readonly reason?: string;
  readonly deviceCount: number;
  /** Path of the plug-in; absent for the built-in one. */
  readonly path?: string;
}

export interface NativeEngineOptions {
  /** "cpu", or the path of a plug-in. */
  readonly backend: string;
  /** Device index; -1: the first one that can be used. */
  readonly device: number;
  /** CPU workers; 0: as many as the machine has cores. */
  readonly threads: number;
  /** Instruction set by name, for tests; "": the best. */
  readonly isa: string;
}

export interface DeviceInfo {
  readonly backend: string;
  /** Among the devices of the backend. */
  readonly index: number;
  readonly name: string;
  /** Instruction set or compute capability in use. */
  readonly isa: string;
  /** Bytes. */
  readonly totalMemory: number;
  /** Bytes, when the device was opened. */
  readonly availableMemory: number;
  /** Workers of a CPU device, else 0. */
  readonly threads: number;
}

export interface KvCacheOptions {
  /** Blocks, the null block included; at least 2. */
  readonly numBlocks: number;
  /** Tokens a block, 1 to 256. */
  readonly blockSize: number;
  readonly dtype: "f32" | "bf16" | "int8";
}

/** A weight, or some of its rows, in a file. */
export interface NativeWeightPart {
  readonly file: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  /** Quantised: not for vectors; `cols` must be a multiple of the block. */
  readonly dtype: FileDtype;
  /** First row of the weight that this part fills; the parts of a vector are joined in order. */
  readonly rowStart: number;
  /** Rows of `cols` elements each; elements where the weight is a vector. */
  readonly rows: number;
  /** Where the file holds codes, which become rows of `dtype` as they are read. */
  readonly quantized?: GroupQuantized & {
    /** Row of the tensor that is the part's first. */
    readonly firstRow: number;
  };
  /**
   * Elements from one row, and from one column, to the next, where they do not follow each other. Of blocks only a transpose:
   * `row` is 1 and `col` the length of the rows in the file.
   */
  readonly strides?: { readonly row: number; readonly col: number };
  /** Where the file holds codes of MXFP4, and `offset` is that of the whole tensor. */
  readonly mxfp4?: {
    readonly scales: FilePlace;
    /** Row of the tensor that is the part's first, and rows from one of the part to the next. */
    readonly firstRow: number;
    readonly rowStep: number;
  };
}

/** A weight of the plan, by its index, and the parts that fill it. */
export interface NativeWeightSource {
  readonly index: number;
  readonly parts: readonly NativeWeightPart[];
}

/** How the codes of a matrix lie in files, and what turns them into numbers; native/group-quantized.h has the layouts. */
export interface GroupQuantized {
  readonly storage: "gptq" | "awq" | "packed" | "bytes";
  /** What the codes become as they are read: blocks that keep them, or numbers. */
  readonly readAs: "Q4_0" | "Q4_1" | "Q8_0" | "F32";
  readonly bits: number;
  /** Columns, a multiple of 32. */
  readonly groupSize: number;
  /** int32 [cols], the group of each column. @default `groupSize` columns after another; else `readAs` is F32 */
  readonly columnGroups?: Int32Array;
  /** 1: all zero points are 2^(bits - 1), and `zeros`, if any, is checked for that. */
  readonly isSymmetric: 0 | 1;
  readonly tensorRows: number;
  /** 1: one for the whole tensor. */
  readonly scaleCount: number;
  readonly scales: QuantizedPlace;
  readonly zeros?: QuantizedPlace;
  /** 1: zero points are stored less one. */
  readonly zeroShift: number;
}

/** Where a tensor begins. */
export interface FilePlace {
  readonly file: string;
  readonly offset: number;
}

/** A tensor in a file. */
export interface QuantizedPlace extends FilePlace {
  readonly dtype: string;
}

/**
 * One device, one plan, one engine thread. Methods that are marked "Job" queue work on that thread and return the job's id
 * at once; its end comes through `onWake` and `drain`. Bad input throws an Error whose `code` is one of PagodaError's.
 */
export interface NativeEngine {
  /** Undefined until the job of `openDevice` is done. */
  readonly device: DeviceInfo | undefined;
  /** Job, the first one: opens the device. */
  openDevice(): number;
  /** Job: what `plan` needs on this device. Values: weights, arena and one KV block over all slots, in bytes, (low, high) each. */
  measure(plan: Plan, kv: Omit<KvCacheOptions, "numBlocks">): number;
  /** Job, once: checks the plan, then allocates arena, KV cache and weights. `enforceEager`: without graphs. Values: bytes of a KV block, (low, high). */
  open(plan: Plan, kv: KvCacheOptions, maxRequests: number, enforceEager: boolean): number;
  /** Job: reads weights from their files, ahead while others are packed. */
  loadWeights(weights: readonly NativeWeightSource[]): number;
  /** Job: packs constant data, float32 [rows, cols]. The data is copied at once. */
  setWeight(index: number, data: Float32Array): number;
  /**
   * Job: runs the plan. Values: S (token, finite) pairs. Floats, where `numLogprobs` is there: logprob [S], rank [S], topIds
   * [S, K], topLogprobs [S, K], integers by their bits. The inputs are copied at once.
   */
  step(input: StepInput): number;
  /** Job: runs the plan but for sampling. Floats: logits [S, vocabSize]. */
  stepLogits(input: StepInput): number;
  /** Job: block copies, then one step of the plan by its index (for single kernels). */
  stepOne(input: StepInput, index: number): number;
  /** Job: as the end of `step`, on logits [S, vocabSize]. */
  sampleRows(logits: Float32Array, sampling: SamplingInput): number;
  /** Job: Bytes: these blocks over all KV memories, block after block. */
  readBlocks(blocks: Int32Array): number;
  /** Job: the reverse; all is checked before any is written. Both arrays are copied at once. */
  writeBlocks(blocks: Int32Array, bytes: Uint8Array): number;
  /** Job: copies `data` into the arena at `offset` bytes (for tests and single kernels). */
  writeArena(offset: number, data: Float32Array): number;
  /** Job: Floats: `length` elements of the arena from `offset` bytes. */
  readArena(offset: number, length: number): number;
  /** Job: fills arena and KV cache with NaN, so that a read of anything unwritten shows. */
  poison(): number;
  /** Job: switches profiling. Floats: nanoseconds of each plan step in the last profiled run. */
  profile(on: boolean): number;
  /** Job, the last one: jobs still queued fail with ERR_CLOSED, memory is freed. `join` must follow once it is drained. */
  close(): number;
  /**
   * Moves ended jobs into `into` as [job, failed, count, ...count values] while they fit and returns the words written;
   * call it until it returns 0. `into` must hold the largest step: 3 + 2 S words.
   */
  drain(into: Int32Array): number;
  /** Why a drained job failed; once a job. */
  takeError(job: number): { readonly code: string; readonly message: string };
  /** Floats of a drained job; once a job. */
  takeFloats(job: number): Float32Array;
  /** Bytes of a drained job; once a job. */
  takeBytes(job: number): Uint8Array;
  /** Whether waiting for jobs keeps the process alive; it does not at first. */
  ref(): void;
  unref(): void;
  /** Frees the thread and the wake. Only after close. */
  join(): void;
}

/** Folder of package.json, from `lib` and from `dist` alike. */
export const packageRoot: string = path.join(path.dirname(fileURLToPath(import.meta.url)), "..");

/** What the prebuilt addon was linked against; the same figure as in package.json "config". */
const minimumGlibc = "2.34";

/** Loads the addon: a local build, else the prebuilt binary of this package. */
export function loadNative(): NativeAddon {
  const require = createRequire(import.meta.url);
  try {
    return (require("node-gyp-build") as (directory: string) => NativeAddon)(packageRoot);
  } catch (cause) {
    const where = `${process.platform}-${process.arch}, Node ${process.versions.node}`;
    throw new PagodaError(
      "ERR_NATIVE_NOT_FOUND",
      `${reasonNotLoaded()} (${where}). Build it here: npx pagoda build`,
      { cause, details: { platform: process.platform, arch: process.arch } },
    );
  }
}

/** Most likely reason why no addon could be loaded. */
function reasonNotLoaded(): string {
  if (process.platform !== "linux") return "No native addon for this platform was found";
  const glibc = glibcVersion();
  if (glibc === undefined) {
    return `No glibc found (musl?); the prebuilt addon needs glibc ${minimumGlibc}`;
  }
  return olderThan(glibc, minimumGlibc)
    ? `glibc ${glibc} is older than ${minimumGlibc}, which the prebuilt addon needs`
    : "No native addon could be loaded";
}

function glibcVersion(): string | undefined {
  // Without this the report resolves network names.
  (process.report as { excludeNetwork?: boolean }).excludeNetwork = true;
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime;
}

function olderThan(version: string, minimum: string): boolean {
  const [a = 0, b = 0] = version.split(".").map(Number);
  const [c = 0, d = 0] = minimum.split(".").map(Number);
  return a < c || (a === c && b < d);
}
