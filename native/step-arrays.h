// All arrays of a step, one after the other: visit(vector, address) is called for each with the place of its device
// address. Every array has elements of 4 bytes.
#pragma once

#include "backend.h"
#include "step.h"

namespace pagoda {

template <typename Visit>
void visitLists(const Lists& lists, PagodaLists& at, Visit visit) {
  visit(lists.values, at.values);
  visit(lists.offsets, at.offsets);
}

template <typename Visit>
void visitControls(const SamplingControls& controls, PagodaSampleControls& at, Visit visit) {
  visitLists(controls.allowed, at.allowed, visit);
  visitLists(controls.banned, at.banned, visit);
  visitLists(controls.biased, at.biased, visit);
  visitLists(controls.history, at.history, visit);
  visitLists(controls.dryBreakers, at.dryBreakers, visit);
  visit(controls.biases, at.biases);
  visit(controls.numPromptTokens, at.numPromptTokens);
  visit(controls.repetitionPenalty, at.repetitionPenalty);
  visit(controls.frequencyPenalty, at.frequencyPenalty);
  visit(controls.presencePenalty, at.presencePenalty);
  visit(controls.dryMultiplier, at.dryMultiplier);
  visit(controls.dryBase, at.dryBase);
  visit(controls.dryAllowedLength, at.dryAllowedLength);
  visit(controls.dryRange, at.dryRange);
  visit(controls.typicalP, at.typicalP);
  visit(controls.xtcProbability, at.xtcProbability);
  visit(controls.xtcThreshold, at.xtcThreshold);
}

template <typename Visit>
void visitSampling(const SamplingInput& sampling, PagodaSample& at, Visit visit) {
  visit(sampling.temperature, at.temperature);
  visit(sampling.topK, at.topK);
  visit(sampling.topP, at.topP);
  visit(sampling.minP, at.minP);
  visit(sampling.seed, at.seed);
  visit(sampling.position, at.position);
  visit(sampling.targets, at.targets);
  visit(sampling.numLogprobs, at.logprobs.wanted);
  if (sampling.hasControls) visitControls(sampling.controls, at.controls, visit);
}

template <typename Uploaded, typename Visit>
void visitStep(const StepInput& step, Uploaded& at, Visit visit) {
  visit(step.tokenIds, at.tokenIds);
  visit(step.positions, at.positions);
  visit(step.slotMapping, at.slotMapping);
  visit(step.queryStartLoc, at.queryStartLoc);
  visit(step.seqLens, at.seqLens);
  visit(step.blockTable, at.blockTable);
  visit(step.blockCopies, at.blockCopies);
  visit(step.outputRows, at.outputRows);
  visitSampling(step.sampling, at.sample, visit);
}

}  // namespace pagoda
