import { existsSync } from "node:fs";
import { join } from "node:path";
import { backends } from "../../lib/backends.js";
import { NativeJobs, type DeviceSelection } from "../../lib/engine/native-executor.js";
import { PagodaError } from "../../lib/errors.js";
import { packageRoot } from "../../lib/native.js";

/** A way to run natively on this machine. */
export interface TestDevice {
  /** e.g. "cpu avx2", "cuda" */
  readonly name: string;
  readonly selection: DeviceSelection;
  /** Whether it may lack ops, whose tests are then skipped. The CPU may not. */
  readonly mayLackOps: boolean;
  /** Whether it is no device, but its kernels run by a test. */
  readonly isEmulated?: boolean;
  /** Whether products read weights of 16 bits and quantised ones as bf16. */
  readonly roundsWeights?: boolean;
}

const isas = ["base", "avx2", "avxvnni", "avx512", "neon"];

/**
 * The CPU with each of its instruction sets, and every plug-in that is installed and finds a device. Nothing without an addon
 * (test/ops/op-table.test.ts then fails).
 */
export async function testDevices(): Promise<TestDevice[]> {
  const devices: TestDevice[] = [];
  for (const isa of isas) {
    const selection = { isa, threads: 2 };
    if (await canOpen(selection))
      devices.push({ name: `cpu ${isa}`, selection, mayLackOps: false });
  }
  if (devices.length === 0) return [];
  for (const { name, path, available } of backends()) {
    if (!available || path === undefined) continue;
    const selection = { backend: path };
    devices.push({ name, selection, mayLackOps: true, roundsWeights: name === "cuda" });
  }
  return devices;
}

/**
 * The sources of the CUDA backend, run on the CPU by an emulator (native/test/cuda-emulator), as a GPU of compute capability 9.0
 * and as one of 8.0, which take different kernels for products and attention: slow, so only tests that name it use it. Nothing unless
 * `npm run test:native` has built it.
 */
export function emulatedDevices(): TestDevice[] {
  const path = join(packageRoot, "build", "Release", "pagoda_backend_cuda_emulated.so");
  if (!existsSync(path)) return [];
  return ["sm_90", "sm_80"].map((isa, device) => {
    const selection = { backend: path, device };
    const name = `cuda, emulated ${isa}`;
    return { name, selection, mayLackOps: false, isEmulated: true, roundsWeights: true };
  });
}

async function canOpen(selection: DeviceSelection): Promise<boolean> {
  try {
    const jobs = new NativeJobs(selection, 1);
    try {
      await jobs.run((native) => native.openDevice());
      return true;
    } finally {
      await jobs.close();
    }
  } catch (error) {
    const expected = ["ERR_NATIVE_NOT_FOUND", "ERR_BACKEND_UNAVAILABLE"] as const;
    if (expected.some((code) => PagodaError.is(error, code))) return false;
    throw error;
  }
}

/** Runs `test`, and skips it where a plug-in reports that it lacks an op. */
export async function unlessUnsupported(
  device: { readonly mayLackOps: boolean },
  skip: (reason: string) => void,
  test: () => Promise<void>,
): Promise<void> {
  try {
    await test();
  } catch (error) {
    if (!device.mayLackOps || !PagodaError.is(error, "ERR_BACKEND_UNSUPPORTED")) throw error;
    skip(error.message);
  }
}
