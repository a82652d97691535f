import { argumentError } from "../errors.js";
import { checkLength, checkRange, maxInt32 } from "./check-arrays.js";
import type { ExecutorLimits } from "./executor.js";
import type { StepInput } from "./step.js";
import { validateSampling } from "./validate-sampling.js";

/** The arrays of a step whose elements are checked, by the name that errors use. */
type IntArray = Exclude<keyof StepInput, "maxBlocks" | "sampling">;

const intArrays: readonly IntArray[] = [
  "tokenIds",
  "positions",
  "queryStartLoc",
  "seqLens",
  "blockTable",
  "slotMapping",
  "blockCopies",
  "outputRows",
];

/**
 * Checks a step against the limits of its executor, so that no kernel can read or write outside its arrays. At least one
 * request with at least one token is needed; S may be 0.
 * @throws PagodaError ERR_ARGUMENT that names the array
 */
export function validateStep(input: StepInput, limits: ExecutorLimits): void {
  for (const name of intArrays) {
    if (!(input[name] instanceof Int32Array))
      throw argumentError(name, "an Int32Array", input[name]);
  }
  checkTokens(input, limits);
  checkRequests(input, limits);
  checkBlocks(input, limits);
  checkOutputs(input, limits);
}

function checkTokens(
  { tokenIds, positions, slotMapping }: StepInput,
  limits: ExecutorLimits,
): void {
  const { maxTokens, vocabSize, numBlocks, blockSize, kvGroups } = limits;
  checkLength("tokenIds", tokenIds, 1, maxTokens);
  checkLength("positions", positions, tokenIds.length);
  checkLength("slotMapping", slotMapping, kvGroups.length * tokenIds.length);
  checkRange("tokenIds", tokenIds, 0, vocabSize - 1);
  checkRange("positions", positions, 0, maxInt32);
  checkRange("slotMapping", slotMapping, -1, numBlocks * blockSize - 1);
}

function checkRequests(input: StepInput, limits: ExecutorLimits): void {
  const { tokenIds, queryStartLoc, seqLens, maxBlocks } = input;
  checkLength("seqLens", seqLens, 1, limits.maxRequests);
  checkLength("queryStartLoc", queryStartLoc, seqLens.length + 1);
  if (!Number.isInteger(maxBlocks) || maxBlocks < 1 || maxBlocks > maxBlockTableRow) {
    throw argumentError("maxBlocks", `an integer in [1, ${maxBlockTableRow}]`, maxBlocks);
  }
  checkRange("queryStartLoc", queryStartLoc.subarray(0, 1), 0, 0);
  for (const [request, seqLen] of seqLens.entries()) {
    const start = queryStartLoc[request] as number;
    const end = queryStartLoc[request + 1] as number;
    if (end <= start || end > tokenIds.length) {
      throw argumentError(
        `queryStartLoc[${request + 1}]`,
        `an integer in [${start + 1}, ${tokenIds.length}]`,
        end,
      );
    }
    if (seqLen < end - start || seqLen > maxBlocks * limits.blockSize) {
      const range = `[${end - start}, ${maxBlocks * limits.blockSize}]`;
      throw argumentError(`seqLens[${request}]`, `an integer in ${range}`, seqLen);
    }
  }
  const last = queryStartLoc.at(-1);
  if (last !== tokenIds.length)
    throw argumentError("queryStartLoc", `${tokenIds.length} as its last element`, last);
}

function checkBlocks(
  { blockTable, blockCopies, seqLens, maxBlocks }: StepInput,
  limits: ExecutorLimits,
): void {
  checkLength("blockTable", blockTable, limits.kvGroups.length * seqLens.length * maxBlocks);
  checkRange("blockTable", blockTable, 0, limits.numBlocks - 1);
  if (blockCopies.length % 2 !== 0)
    throw argumentError("blockCopies", "pairs of blocks", blockCopies);
  checkRange("blockCopies", blockCopies, 0, limits.numBlocks - 1);
}

function checkOutputs({ outputRows, tokenIds, sampling }: StepInput, limits: ExecutorLimits): void {
  checkLength("outputRows", outputRows, 0, limits.maxOutputs);
  checkRange("outputRows", outputRows, 0, tokenIds.length - 1);
  validateSampling(sampling, outputRows.length, limits.vocabSize);
}

const maxBlockTableRow = 2 ** 24;
