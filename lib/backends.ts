import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { argumentError, PagodaError } from "./errors.js";
import { loadNative, packageRoot, type BackendReport } from "./native.js";

/** Where a request's computation runs. */
export interface DeviceChoice {
  /** "cpu", or the path of a plug-in. */
  readonly backend: string;
  /** Index of the device. */
  readonly device: number;
}

const plugInNames = ["cuda"] as const;

/**
 * The backends of this installation and whether each can be used here. The CPU is built in; others are opt-in packages
 * (`pagoda-llm-cuda-linux-x64`) that are found by name, or a local build of the plug-in.
 *
 * @throws PagodaError ERR_NATIVE_NOT_FOUND
 */
export function backends(): BackendReport[] {
  return loadNative().backends(findPlugIns());
}

/**
 * Turns `EngineOptions.device` into a device.
 *
 * @param device - "cpu", "auto" (a usable accelerator, else the CPU) or for example "cuda:0"
 * @throws PagodaError ERR_ARGUMENT, or ERR_BACKEND_UNAVAILABLE with the reason
 */
export function chooseDevice(device: string): DeviceChoice {
  if (device === "cpu") return { backend: "cpu", device: 0 };
  if (device === "auto") return firstAccelerator() ?? { backend: "cpu", device: 0 };
  const [, name, index] = /^(cuda):(\d{1,3})$/.exec(device) ?? [];
  if (name === undefined)
    throw argumentError("device", '"auto", "cpu" or for example "cuda:0"', device);
  const report = backends().find(
    (backend) => backend.name === name || backend.path?.includes(name),
  );
  if (report?.path === undefined) {
    throw unavailable(device, `its plug-in is not installed (npm install ${packageOf(name)})`);
  }
  if (!report.available) throw unavailable(device, report.reason ?? "unknown reason");
  if (Number(index) >= report.deviceCount) {
    throw unavailable(device, `there are ${report.deviceCount} devices`);
  }
  return { backend: report.path, device: Number(index) };
}

function firstAccelerator(): DeviceChoice | undefined {
  const report = backends().find(({ available, path }) => available && path !== undefined);
  return report?.path === undefined ? undefined : { backend: report.path, device: 0 };
}

function unavailable(device: string, reason: string): PagodaError {
  return new PagodaError("ERR_BACKEND_UNAVAILABLE", `Device ${device} cannot be used: ${reason}`, {
    details: { device, reason },
  });
}

function packageOf(name: string): string {
  return `pagoda-llm-${name}-${process.platform}-${process.arch}`;
}

/** Paths of the plug-ins that are installed or built here. */
function findPlugIns(): string[] {
  return plugInNames.flatMap((name) => {
    const local = path.join(packageRoot, "build", "Release", `pagoda_backend_${name}.so`);
    return existsSync(local) ? [local] : installedPlugIn(name);
  });
}

/** A plug-in package exports the path of its shared library. */
function installedPlugIn(name: string): string[] {
  const require = createRequire(path.join(packageRoot, "package.json"));
  try {
    return [require(`${packageOf(name)}/backend`) as string];
  } catch {
    return []; // not installed
  }
}
