import { maxStepLogprobs } from "./step.js";
import { greedySampling } from "../sampling/sampling-params.js";
import { Sequence } from "../scheduler/sequence.js";
import { BeamRun, type BeamRunOptions } from "./beam-run.js";
import type { Admission } from "./intake.js";
import type { LiveRequest } from "./live-request.js";
import { ParallelSampling } from "./parallel-sampling.js";

/**
 * Makes the sequence that computes a request's prompt, and what decides how it goes on where that leads to several.
 *
 * @param nextId - ids of new sequences
 */
export function beginRequest(
  live: LiveRequest,
  admission: Admission,
  nextId: () => number,
): Sequence {
  const { request, outputs } = live;
  const { priority, cacheSalt } = request;
  const common = { id: nextId(), promptTokenIds: admission.promptTokenIds, priority, cacheSalt };
  const { beam } = request.outputs;
  if (beam !== undefined) {
    const options = beamOptions(live, admission, nextId);
    const run = new BeamRun(outputs, options);
    const first = new Sequence({ ...common, ...options, isBranching: true });
    run.began([first]);
    live.brancher = run;
    return first;
  }
  const { stop } = admission;
  if (outputs.length === 1) return new Sequence({ ...common, stop, sampling: admission.sampling });
  const sampling = rankedSampling(live, admission);
  live.brancher = new ParallelSampling(outputs, { stop, sampling }, nextId);
  return new Sequence({ ...common, stop, sampling, isBranching: true });
}

/** Outputs are ranked by the log-probabilities of their tokens. */
function rankedSampling({ request }: LiveRequest, { sampling }: Admission): Admission["sampling"] {
  const { n, bestOf } = request.outputs;
  return bestOf > n ? { ...sampling, numLogprobs: sampling.numLogprobs ?? 0 } : sampling;
}

function beamOptions(
  { request }: LiveRequest,
  { stop, sampling }: Admission,
  nextId: () => number,
): BeamRunOptions {
  const beam = request.outputs.beam!;
  const stopTokenIds = new Set([...stop.eosTokenIds, ...stop.stopTokenIds]);
  const { logitsProcessor, numLogprobs } = sampling;
  const numCandidates = Math.max(beam.width + stopTokenIds.size, numLogprobs ?? 0);
  return {
    ...beam,
    stopTokenIds,
    minTokens: request.controls.minTokens,
    maxTokens: stop.maxTokens,
    stop,
    sampling: {
      ...greedySampling,
      numLogprobs: Math.min(numCandidates, maxStepLogprobs),
      ...(logitsProcessor !== undefined && { logitsProcessor }),
    },
    numLogprobs,
    nextId,
  };
}
