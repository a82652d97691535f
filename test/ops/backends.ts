import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StepOutput } from "../../lib/engine/step.js";
import { createNativeExecutor, type WeightSink } from "../../lib/engine/native-executor.js";
import { roundTo } from "../../lib/loading/weights.js";
import type { KvCacheOptions } from "../../lib/native.js";
import { copyBlocks, createKvCache } from "../../lib/reference/kv-cache.js";
import { runStep, type Memory } from "../../lib/reference/run-step.js";
import { emulatedDevices, testDevices, type TestDevice } from "../support/devices.js";
import { arenaImage, type CasePlan, type CaseRun, type OpCase } from "./op-case.js";

export interface CaseResult {
  /** The whole arena after the last run. */
  readonly arena: Float32Array;
  /** Of the last run, where the case samples. */
  readonly output: StepOutput | undefined;
}

/** Something that runs a case's plan. */
export interface OpBackend {
  readonly name: string;
  readonly mayLackOps: boolean;
  readonly isEmulated?: boolean;
  readonly roundsWeights?: boolean;
  run(opCase: OpCase, casePlan: CasePlan): Promise<CaseResult>;
}

const noKv: KvCacheOptions = { numBlocks: 64, blockSize: 16, dtype: "f32" };

export const reference: OpBackend = {
  name: "reference",
  mayLackOps: false,
  async run(opCase, casePlan) {
    const { plan, weights, files } = casePlan;
    const rounded = weights.map((data, i) =>
      files[i] === undefined ? roundTo(data, plan.weights[i]!.dtype) : data,
    );
    const caches = plan.kvLayers.map((layer) => createKvCache(layer, opCase.kv ?? noKv));
    let result: CaseResult = { arena: new Float32Array(), output: undefined };
    for (const run of opCase.runs) {
      const memory: Memory = { plan, arena: arenaImage(casePlan, run), weights: rounded, caches };
      for (const cache of caches) copyBlocks(cache, run.step.blockCopies);
      const outputs = plan.steps.map((step) => runStep(memory, step, run.step));
      result = { arena: memory.arena, output: outputs.at(-1) };
    }
    return result;
  },
};

function nativeBackend(testDevice: TestDevice): OpBackend {
  const { name, selection, mayLackOps, isEmulated = false, roundsWeights = false } = testDevice;
  return {
    name,
    mayLackOps,
    isEmulated,
    roundsWeights,
    async run(opCase, casePlan) {
      const { plan } = casePlan;
      const executor = await createNativeExecutor({
        plan,
        kv: opCase.kv ?? noKv,
        maxRequests: 4096,
        ...selection,
        loadWeights: (sink) => loadWeights(casePlan, sink),
      });
      try {
        await executor.jobs.run((native) => native.poison());
        let output: StepOutput | undefined;
        for (const run of opCase.runs) output = await runOnce(executor, opCase, casePlan, run);
        const arena = await executor.jobs.floats((native) =>
          native.readArena(0, plan.arenaBytes / 4),
        );
        return { arena, output };
      } finally {
        await executor.close();
      }
    },
  };
}

async function loadWeights({ plan, weights, files }: CasePlan, sink: WeightSink): Promise<void> {
  for (const [index, data] of weights.entries()) {
    const file = files[index];
    if (file === undefined) await sink.set(index, data);
    else await loadFile(sink, index, file, plan.weights[index]!.rows);
  }
}

/** Through a file, a few bytes into it, in two parts of which the second comes first. */
async function loadFile(
  sink: WeightSink,
  index: number,
  { dtype, bytes }: NonNullable<CasePlan["files"][number]>,
  rows: number,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "pagoda-op-"));
  try {
    const file = join(directory, "weight");
    const start = 5;
    await writeFile(file, Buffer.concat([new Uint8Array(start), bytes]));
    const middle = Math.floor(rows / 2);
    const part = (rowStart: number, rowEnd: number) => {
      const offset = start + (bytes.length / rows) * rowStart;
      return { file, offset, dtype, rowStart, rows: rowEnd - rowStart };
    };
    const parts = [part(middle, rows), ...(middle > 0 ? [part(0, middle)] : [])];
    await sink.load([{ index, parts }]);
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function runOnce(
  executor: Awaited<ReturnType<typeof createNativeExecutor>>,
  opCase: OpCase,
  casePlan: CasePlan,
  run: CaseRun,
): Promise<StepOutput | undefined> {
  await executor.jobs.run((native) => native.writeArena(0, arenaImage(casePlan, run)));
  if (opCase.ops.at(-1)?.op === "sample") return executor.execute(run.step);
  await executor.logits(run.step);
  return undefined;
}

/**
 * Every backend of this machine that is held to the reference.
 *
 * @param options.allGpus - all emulated GPUs, not the first alone: they differ in products and attention
 */
export async function opBackends({ allGpus = false } = {}): Promise<OpBackend[]> {
  const gpus = emulatedDevices();
  return [...(await testDevices()), ...(allGpus ? gpus : gpus.slice(0, 1))].map(nativeBackend);
}
