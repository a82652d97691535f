import { setMaxListeners } from "node:events";
import { PagodaError } from "../errors.js";

/** Calls `listener` with the reason when the signal fires, once. Returns what takes it off again. */
export function onAbort(
  signal: AbortSignal | undefined,
  listener: (error: PagodaError) => void,
): () => void {
  if (signal === undefined) return () => {};
  const onFire = () => listener(abortError(signal));
  // Any number of requests may share a signal; none is a leak, as each takes its listener off. undici does the same.
  if (signal instanceof EventTarget) setMaxListeners(0, signal);
  signal.addEventListener("abort", onFire, { once: true });
  return () => signal.removeEventListener("abort", onFire);
}

export function abortError(signal: AbortSignal): PagodaError {
  const cause: unknown = signal.reason;
  return new PagodaError("ERR_ABORTED", "The signal was aborted", { cause });
}
