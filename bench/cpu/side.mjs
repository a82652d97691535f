// One side of bench/cpu.mjs in a process of its own, so that memory and threads of one side are not there for the other.
// Its options come as a message; it answers with one.
import { measures, takeMeasures, tokensOf } from "./measures.mjs";
import { openPeer } from "./node-llama-cpp.mjs";
import { openPagoda } from "./pagoda.mjs";

process.once("message", async (options) => {
  const result = await measureSide(options);
  process.send(result, () => process.exit(0));
});

async function measureSide(options) {
  const specs = options.names.map((name) => measures[name]);
  const cacheTokens = Math.max(1024, ...specs.map((spec) => spec.streams * (tokensOf(spec) + 16)));
  const open = options.setting === undefined ? openPagoda : openPeer;
  const side = await open({ ...options, cacheTokens });
  const loadedMemory = process.memoryUsage().rss / 1e6;
  const values = await takeMeasures(side, options.names);
  const peakMemory = (process.resourceUsage().maxRSS * 1024) / 1e6;
  await side.close();
  return { load: side.loadMs, loadedMemory, peakMemory, ...values };
}
