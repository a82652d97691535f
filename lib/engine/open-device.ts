import { findPlugIn, findPlugIns, type PlugIn } from "../backends.js";
import { argumentError, PagodaError } from "../errors.js";
import { openDevice, type DeviceSelection, type NativeJobs } from "./native-executor.js";

/** An accelerator that `device: "auto"` did not take. */
export interface PassedOverDevice {
  /** e.g. "cuda" */
  readonly backend: string;
  /** A sentence, or a part of one. */
  readonly reason: string;
}

export interface OpenedDevice {
  /** Open; the caller closes it. */
  readonly jobs: NativeJobs;
  /** In the order in which they were tried; empty unless "auto" was asked for. */
  readonly passedOver: readonly PassedOverDevice[];
}

interface OpenOptions extends Pick<DeviceSelection, "threads"> {
  /** Of the plan that will be opened on the device. */
  readonly maxOutputs: number;
}

/** Any device of a backend: the first one that can be used. */
const anyDevice = -1;

/**
 * Opens what `EngineOptions.device` names, off the event loop.
 *
 * @param name - "cpu", "auto" (the first accelerator that can be used, else the CPU) or for example "cuda:0"
 * @throws PagodaError ERR_ARGUMENT, or ERR_BACKEND_UNAVAILABLE with the reason
 */
export async function openNamedDevice(name: string, options: OpenOptions): Promise<OpenedDevice> {
  if (name === "cpu") return { jobs: await openCpu(options), passedOver: [] };
  if (name === "auto") return openAny(options);
  const [, backend, index] = /^(cuda):(\d{1,3})$/.exec(name) ?? [];
  if (backend !== "cuda") {
    throw argumentError("device", '"auto", "cpu" or for example "cuda:0"', name);
  }
  const opened = await tryPlugIn(findPlugIn(backend), Number(index), options);
  if (!("reason" in opened)) return { jobs: opened, passedOver: [] };
  const { reason } = opened;
  throw new PagodaError("ERR_BACKEND_UNAVAILABLE", `Device ${name} cannot be used: ${reason}`, {
    details: { device: name, reason },
  });
}

async function openAny(options: OpenOptions): Promise<OpenedDevice> {
  const passedOver: PassedOverDevice[] = [];
  for (const plugIn of findPlugIns()) {
    const opened = await tryPlugIn(plugIn, anyDevice, options);
    if (!("reason" in opened)) return { jobs: opened, passedOver };
    passedOver.push({ backend: plugIn.name, reason: opened.reason });
  }
  return { jobs: await openCpu(options), passedOver };
}

function openCpu({ threads, maxOutputs }: OpenOptions): Promise<NativeJobs> {
  return openDevice({ ...(threads !== undefined && { threads }) }, maxOutputs);
}

/** Opens a device of a plug-in, or says why it cannot be used. */
async function tryPlugIn(
  plugIn: PlugIn,
  device: number,
  { maxOutputs }: OpenOptions,
): Promise<NativeJobs | { readonly reason: string }> {
  if ("reason" in plugIn) return plugIn;
  try {
    return await openDevice({ backend: plugIn.path, device }, maxOutputs);
  } catch (error) {
    if (PagodaError.is(error, "ERR_BACKEND_UNAVAILABLE")) return { reason: error.message };
    throw error;
  }
}
