import { PagodaError } from "../errors.js";
import type { ScheduledStep } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import type { Executor } from "./executor.js";
import type { StepInput, StepOutput } from "./step.js";
import type { LogitsProcessor } from "./types.js";

/**
 * Executes a step. Where a sequence has a logits processor, the step's logits take a detour: to JavaScript, through the
 * processors, and back to be sampled, so that there is one implementation of drawing.
 *
 * @param onFailure - called for each sequence whose processor failed; its row is sampled as it is
 */
export async function executeStep(
  executor: Executor,
  step: ScheduledStep,
  input: StepInput,
  onFailure: (sequence: Sequence, error: PagodaError) => void,
): Promise<StepOutput> {
  const rows = step.sequences.filter(({ isSampled }) => isSampled);
  if (!rows.some(({ sequence }) => sequence.sampling.logitsProcessor)) {
    return executor.execute(input);
  }
  const logits = await executor.logits(input);
  const { vocabSize } = executor.limits;
  for (const [row, { sequence }] of rows.entries()) {
    const { logitsProcessor } = sequence.sampling;
    if (logitsProcessor === undefined || sequence.status === "finished") continue;
    const values = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    try {
      process(logitsProcessor, sequence.tokenIds.slice(), values);
    } catch (cause) {
      onFailure(sequence, failure(cause));
    }
  }
  return executor.sampleRows(logits, input.sampling);
}

/** On a copy, as the processor may keep it, or give its memory away. */
function process(processor: LogitsProcessor, tokenIds: Int32Array, logits: Float32Array): void {
  const copy = logits.slice();
  const result: unknown = processor(tokenIds, copy);
  if (typeof (result as PromiseLike<unknown> | undefined)?.then === "function") {
    void Promise.resolve(result).catch(() => {}); // it is reported once, by the request
    throw new TypeError("it is asynchronous");
  }
  if (copy.length !== logits.length) throw new TypeError("it gave its logits away");
  logits.set(copy);
}

function failure(cause: unknown): PagodaError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new PagodaError(
    "ERR_ARGUMENT",
    `The \`logitsProcessor\` of the request failed: ${reason}`,
    {
      details: { parameter: "logitsProcessor" },
      cause,
    },
  );
}
