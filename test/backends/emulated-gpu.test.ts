import { describe, expect, it } from "vitest";
import { createEngine } from "../../lib/engine/create-engine.js";
import { listDevices } from "../../lib/engine/list-devices.js";
import type { Engine, EngineOptions } from "../../lib/engine/types.js";
import { PagodaError } from "../../lib/errors.js";
import { flashAttention } from "../../lib/kernels/index.js";
import { emulatedPlugIn, setEmulatedGpu, useEmulatedGpu } from "../support/emulated-gpu.js";
import { goldenDirectory } from "../support/golden.js";

const options = {
  model: goldenDirectory("hf-tiny/llama"),
  device: "cuda:0",
  kvCache: { numBlocks: 12 },
  scheduler: { maxBatchTokens: 16, maxSequences: 4 },
} as const satisfies EngineOptions;

/** Tokens of a short request. */
async function generate(engine: Engine, prompt: readonly number[] = [1, 2, 3]): Promise<number[]> {
  const { tokenIds } = await engine.generate({
    prompt,
    maxTokens: 3,
    temperature: 0,
    ignoreEos: true,
  });
  return [...tokenIds];
}

/** The error of opening an engine. */
async function errorOf(opening: Promise<Engine>): Promise<PagodaError> {
  const result = await opening.catch((error: unknown) => error);
  if (PagodaError.is(result)) return result;
  await (result as Engine).close();
  throw new Error("The engine has opened");
}

async function cpuTokens(): Promise<number[]> {
  const engine = await createEngine({ ...options, device: "cpu", threads: 1 });
  const tokens = await generate(engine);
  await engine.close();
  return tokens;
}

const cannot: [string, string][] = [
  ["driver=0", "No NVIDIA driver is installed (libcuda.so.1)"],
  ["driver=12.2", "The NVIDIA driver is too old: it supports CUDA 12.2, and CUDA 13.0 is needed"],
  ["gpus=", "The NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)"],
  ["gpus=7.5", "GPU 0 has compute capability 7.5, and 8.0 is needed"],
  ["gpus=10.0 image=0", "The plug-in has no code for GPU 0, of compute capability 10.0"],
];

describe.skipIf(emulatedPlugIn === undefined)("a GPU that cannot be used", () => {
  it.each(cannot)("%s: is named with the reason", async (setup, reason) => {
    useEmulatedGpu(setup);
    const error = await errorOf(createEngine(options));
    expect(error).toMatchObject({
      code: "ERR_BACKEND_UNAVAILABLE",
      message: `Device cuda:0 cannot be used: ${reason}`,
      details: { device: "cuda:0", reason },
    });
    const report = (await listDevices()).find(({ device }) => device.startsWith("cuda"));
    expect(report).toMatchObject({ available: false, reason });
  });

  it.each(cannot)("%s: leaves auto with the CPU, and tells why", async (setup, reason) => {
    useEmulatedGpu(setup);
    await using engine = await createEngine({ ...options, device: "auto", threads: 1 });
    expect(engine.info.device).toMatchObject({ backend: "cpu", index: 0 });
    expect(engine.info.passedOver).toEqual([{ backend: "cuda", reason }]);
    expect(await generate(engine)).toEqual(await cpuTokens());
  });

  it("is passed over by auto where another one can be used", async () => {
    useEmulatedGpu("gpus=7.5,8.0,9.0");
    await using engine = await createEngine({ ...options, device: "auto" });
    expect(engine.info.device).toMatchObject({ backend: "cuda", index: 1, isa: "sm_80" });
    expect(engine.info.passedOver).toEqual([]);
    expect(await generate(engine)).toEqual(await cpuTokens());
    expect(await listDevices()).toMatchObject([
      { device: "cpu", available: true },
      { device: "cuda:0", available: false, reason: /capability 7.5/ },
      { device: "cuda:1", available: true },
      { device: "cuda:2", available: true, info: { index: 2, isa: "sm_90" } },
    ]);
  });

  it("is told from one that does not exist", async () => {
    useEmulatedGpu("gpus=9.0,9.0");
    const error = await errorOf(createEngine({ ...options, device: "cuda:2" }));
    expect(error.message).toContain("There is no GPU 2: the number of GPUs is 2");
  });

  it("is an error of single kernels, too", async () => {
    useEmulatedGpu("driver=0");
    const data = new Float32Array(4);
    const inputs = { query: data, key: data, value: data, numHeads: 1, numKvHeads: 1, headDim: 4 };
    const call = flashAttention({ ...inputs, device: "cuda:0" });
    await expect(call).rejects.toMatchObject({ code: "ERR_BACKEND_UNAVAILABLE" });
    expect(await flashAttention({ ...inputs, device: "auto", threads: 1 })).toEqual(data);
  });
});

describe.skipIf(emulatedPlugIn === undefined)("several GPUs", () => {
  it("serve an engine each in one process", async () => {
    useEmulatedGpu("gpus=8.0,9.0");
    await using first = await createEngine(options);
    await using second = await createEngine({ ...options, device: "cuda:1" });
    const tokens = await Promise.all([generate(first), generate(second), generate(second)]);
    const expected = await cpuTokens();
    expect(tokens).toEqual([expected, expected, expected]);
    expect([first, second].map(({ info }) => info.device.isa)).toEqual(["sm_80", "sm_90"]);
  });
});

describe.skipIf(emulatedPlugIn === undefined)("an error of the GPU", () => {
  it.each([1, 2, 30, 100])("in launch %s ends all requests; a new engine works", async (launch) => {
    useEmulatedGpu();
    const engine = await createEngine(options);
    const { availableMemory } = engine.info.device;
    setEmulatedGpu(`launch=${launch}`);
    const failed = {
      code: "ERR_BACKEND_FAILED",
      message: expect.stringContaining("cudaErrorIllegalAddress"),
    };
    const running = [[1], [2, 3], [4, 5, 6]].map((prompt) => generate(engine, prompt));
    for (const generation of running) await expect(generation).rejects.toMatchObject(failed);
    expect(() => engine.generate({ prompt: [1] })).toThrow(expect.objectContaining(failed));
    await engine.close();
    await using next = await createEngine(options);
    expect(next.info.device.availableMemory).toBe(availableMemory);
    expect(await generate(next)).toEqual(await cpuTokens());
  });

  it("fails every engine on that GPU; the last one to be closed takes the error with it", async () => {
    useEmulatedGpu("gpus=9.0,9.0");
    const [first, second] = [await createEngine(options), await createEngine(options)];
    await using other = await createEngine({ ...options, device: "cuda:1" });
    setEmulatedGpu("gpus=9.0,9.0 launch=5");
    await expect(generate(first)).rejects.toMatchObject({ code: "ERR_BACKEND_FAILED" });
    await expect(generate(second)).rejects.toMatchObject({ code: "ERR_BACKEND_FAILED" });
    await first.close();
    const refused = await errorOf(createEngine(options));
    expect(refused.code).toBe("ERR_BACKEND_UNAVAILABLE");
    expect(refused.message).toContain("close all engines on it or restart the process");
    await second.close();
    await using next = await createEngine(options);
    expect(await Promise.all([generate(next), generate(other)])).toEqual([
      await cpuTokens(),
      await cpuTokens(),
    ]);
  });

  it("that the driver cannot mend leaves the CPU to auto", async () => {
    useEmulatedGpu("gpus=9.0");
    const engine = await createEngine(options);
    setEmulatedGpu("gpus=9.0 launch=1 reset=0");
    await expect(generate(engine)).rejects.toMatchObject({ code: "ERR_BACKEND_FAILED" });
    await engine.close();
    await using next = await createEngine({ ...options, device: "auto", threads: 1 });
    expect(next.info.device.backend).toBe("cpu");
    expect(next.info.passedOver[0]?.reason).toContain("cudaErrorIllegalAddress");
  });
});

/** What an ERR_MEMORY tells. */
const memoryPlan = {
  needed: expect.any(Number),
  weights: expect.any(Number),
  arena: expect.any(Number),
  kvBlock: expect.any(Number),
  kvCache: expect.any(Number),
  available: 8 * 2 ** 30,
};

describe.skipIf(emulatedPlugIn === undefined)("device memory that cannot be allocated", () => {
  it("is asked for twice: once is enough where the first time fails", async () => {
    const expected = await cpuTokens();
    for (let allocation = 1; allocation <= 10; allocation++) {
      useEmulatedGpu();
      setEmulatedGpu(`allocation=${allocation}`);
      await using engine = await createEngine(options);
      expect(await generate(engine), `allocation ${allocation}`).toEqual(expected);
    }
  });

  it("ends opening, or all requests, with the memory plan, and leaves nothing behind", async () => {
    useEmulatedGpu();
    let failures = 0;
    for (let allocation = 1; allocation < 30; allocation++) {
      setEmulatedGpu(`allocation=${allocation}+`);
      const error = await failureOf();
      if (error === undefined) break;
      expect(error, `allocation ${allocation}`).toMatchObject({
        code: "ERR_MEMORY",
        details: memoryPlan,
      });
      failures++;
    }
    expect(failures).toBeGreaterThan(5);
    setEmulatedGpu("");
    const [report] = (await listDevices()).slice(1);
    expect(report).toMatchObject({ info: { availableMemory: 8 * 2 ** 30 } });
  });

  it("is told before anything is loaded where the plan says so", async () => {
    useEmulatedGpu("memory=500000");
    const error = await errorOf(createEngine(options));
    expect(error).toMatchObject({
      code: "ERR_MEMORY",
      details: { ...memoryPlan, available: 500_000 },
    });
    expect(error.message).toMatch(/^The model needs .* MiB are available$/);
  });
});

/** Of an engine that opens and generates; undefined where all goes well. */
async function failureOf(): Promise<unknown> {
  try {
    await using engine = await createEngine(options);
    await generate(engine);
    return undefined;
  } catch (error) {
    return error;
  }
}
