import type { StepInput } from "../engine/step.js";
import { at } from "./matrix.js";

export type Batch = Pick<StepInput, "queryStartLoc" | "seqLens" | "blockTable" | "maxBlocks">;

/** A request of a batch: rows `[start, end)`, the last of which is position `seqLen - 1`. */
export interface BatchRequest {
  readonly start: number;
  readonly end: number;
  readonly seqLen: number;
  /** Block table of the request. */
  readonly blocks: Int32Array;
}

export function batchRequests(batch: Batch): BatchRequest[] {
  const { queryStartLoc, seqLens, blockTable, maxBlocks } = batch;
  return Array.from(seqLens, (seqLen, request) => {
    const blocks = blockTable.subarray(request * maxBlocks, (request + 1) * maxBlocks);
    return {
      start: at(queryStartLoc, request),
      end: at(queryStartLoc, request + 1),
      seqLen,
      blocks,
    };
  });
}

/** The rows of a batch: which position of which block table each of them is. */
export function batchRows(batch: Batch): { row: number; position: number; blocks: Int32Array }[] {
  return batchRequests(batch).flatMap(({ start, end, seqLen, blocks }) =>
    Array.from({ length: end - start }, (_, i) => {
      return { row: start + i, position: seqLen - (end - start) + i, blocks };
    }),
  );
}
