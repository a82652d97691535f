import { PagodaError, type ErrorCode } from "../errors.js";

export function queueFull(maxLive: number): PagodaError {
  return new PagodaError("ERR_QUEUE_FULL", `${maxLive} requests run or wait already`, {
    details: { live: maxLive },
  });
}

export function missingTokenizer(purpose: string): PagodaError {
  return new PagodaError(
    "ERR_TOKENIZER_MISSING",
    `The model has no tokenizer, which ${purpose} would need; use token ids`,
  );
}

/** Other codes, such as ERR_ARGUMENT for a step, would tell callers that their requests were at fault. */
const engineFailures: ReadonlySet<ErrorCode> = new Set([
  "ERR_BACKEND_FAILED",
  "ERR_MEMORY",
  "ERR_INTERNAL",
]);

/** What every live request hears when the loop has failed. */
export function engineFailure(cause: unknown): PagodaError {
  if (PagodaError.is(cause) && engineFailures.has(cause.code)) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new PagodaError("ERR_BACKEND_FAILED", `A step failed: ${reason}`, { cause });
}

/** Of a request's logits, after so many tokens of an output. */
export function nonFinite(numOutputTokens: number): PagodaError {
  const message =
    "The model produced logits that are NaN or infinite, or the request rules out every token";
  return new PagodaError("ERR_NON_FINITE", message, { details: { outputTokens: numOutputTokens } });
}
