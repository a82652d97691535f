import { readFileSync } from "node:fs";

/** How late timers of one millisecond fired, in milliseconds. */
export interface LoopDelays {
  percentile(percent: number): number;
  readonly max: number;
}

/**
 * Measures until the returned function is called for how long the event loop is held. The time for which this thread could
 * have run but other programs had the processor does not count, where Linux tells it.
 */
export function measureLoopDelay(): () => LoopDelays {
  const delays: number[] = [];
  let last = performance.now();
  let waited = waitedForProcessor();
  const timer = setInterval(() => {
    const now = performance.now();
    const waitedNow = waitedForProcessor();
    delays.push(Math.max(0, now - last - 1 - (waitedNow - waited)));
    [last, waited] = [now, waitedNow];
  }, 1);
  return () => {
    clearInterval(timer);
    delays.sort((a, b) => a - b);
    const percentile = (percent: number): number =>
      delays[Math.floor((delays.length * percent) / 100)] ?? Infinity;
    return { percentile, max: delays.at(-1) ?? Infinity };
  };
}

/** Milliseconds that this thread has stood in the scheduler's queue. */
function waitedForProcessor(): number {
  try {
    const [, nanoseconds] = readFileSync("/proc/thread-self/schedstat", "utf8").split(" ");
    return Number(nanoseconds) / 1e6;
  } catch {
    return 0;
  }
}
