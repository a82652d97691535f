import { onTestFinished } from "vitest";
import { emulatedDevices } from "./devices.js";

/** Path of the emulated CUDA plug-in; undefined unless `npm run test:native` has built it. */
export const emulatedPlugIn: string | undefined = emulatedDevices()[0]?.selection.backend;

/** Makes `device: "cuda:0"` an emulated GPU until the test ends, on a machine as native/test/cuda-emulator/setup.h tells. */
export function useEmulatedGpu(setup = ""): void {
  const variables = { PAGODA_CUDA_PLUGIN: emulatedPlugIn, PAGODA_CUDA_EMULATOR: setup };
  for (const [name, value] of Object.entries(variables)) {
    const before = process.env[name];
    process.env[name] = value;
    onTestFinished(() => {
      if (before === undefined) delete process.env[name];
      else process.env[name] = before;
    });
  }
}

/** Changes the machine; counts of calls begin anew. No step may be under way. */
export function setEmulatedGpu(setup: string): void {
  process.env["PAGODA_CUDA_EMULATOR"] = setup;
}
