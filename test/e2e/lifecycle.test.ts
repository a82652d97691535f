import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const head = `
  import { createEngine } from "pagoda-llm";
  import { Worker } from "node:worker_threads";
  const model = ${JSON.stringify(`${root}models/demo`)};
  const long = { prompt: "Once upon a time", maxTokens: 900, ignoreEos: true };
`;

interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * For tests that look at resident memory. glibc makes an arena of up to 16 MiB more whenever threads happen to allocate at the
 * same moment, and keeps more freed memory the larger its pieces were; with these what is resident is what is in use.
 */
const tidyMalloc = {
  MALLOC_ARENA_MAX: "2",
  MALLOC_MMAP_THRESHOLD_: "131072",
  MALLOC_TRIM_THRESHOLD_: "131072",
};

/** Runs a program in a process of its own, as what is tested could end it. */
function run(
  program: string,
  flags: readonly string[] = [],
  variables: NodeJS.ProcessEnv = {},
): Promise<Exit> {
  const args = [...flags, "--input-type=module", "--eval", head + program];
  const env = { ...process.env, ...variables };
  const child = spawn(process.execPath, args, { cwd: root, env, timeout: 50_000 });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data: Buffer) => (stdout += data.toString()));
  child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
  return new Promise((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

const clean = { code: 0, signal: null, stderr: "" };

describe("a process that uses the engine", () => {
  it("ends by itself once the work is done, even if nothing was closed", async () => {
    const exit = await run(`
      const engine = await createEngine({ model });
      console.log((await engine.generate({ prompt: "Once", maxTokens: 3 })).tokenIds.length);
    `);
    expect(exit).toMatchObject({ ...clean, stdout: "3\n" });
  });

  it("may exit in the middle of a step", async () => {
    const exit = await run(`
      const engine = await createEngine({ model });
      for (let i = 0; i < 16; i++) engine.generate(long).then(() => {}, () => {});
      setTimeout(() => process.exit(0), 100);
    `);
    expect(exit).toMatchObject(clean);
  });

  it("may exit in the middle of loading", async () => {
    const exit = await run(`
      createEngine({ model, onProgress: ({ phase }) => { if (phase === "weights") process.exit(0); } });
    `);
    expect(exit).toMatchObject(clean);
  });

  it("may run engines in worker threads and terminate them at any moment", async () => {
    const exit = await run(`
      const source = \`
        import { parentPort } from "node:worker_threads";
        import { createEngine } from "pagoda-llm";
        const engine = await createEngine({ model: \${JSON.stringify(model)} });
        const request = { prompt: "A", maxTokens: 900, ignoreEos: true };
        for (let i = 0; i < 8; i++) engine.generate(request).then(() => {}, () => {});
        parentPort.postMessage("running");
      \`;
      for (let i = 0; i < 6; i++) {
        const worker = new Worker(source, { eval: true });
        if (i % 2 === 0) await new Promise((resolve) => worker.once("message", resolve));
        await new Promise((resolve) => setTimeout(resolve, 30 * i));
        await worker.terminate();
      }
      const engine = await createEngine({ model });
      console.log((await engine.generate({ prompt: "Once", maxTokens: 3 })).tokenIds.length);
      await engine.close();
    `);
    expect(exit).toMatchObject({ ...clean, stdout: "3\n" });
  });

  it("gives the memory of closed engines back", async () => {
    const exit = await run(
      `
      const rss = [];
      for (let i = 0; i < 30; i++) {
        const engine = await createEngine({ model, dtype: "f32" });
        await Promise.all(Array.from({ length: 8 }, () => engine.generate({ ...long, maxTokens: 40 })));
        await engine.close();
        gc();
        rss.push(process.memoryUsage.rss() / 2 ** 20);
      }
      console.log(JSON.stringify({ early: rss[9], late: rss[29] }));
    `,
      ["--expose-gc"],
      tidyMalloc,
    );
    expect(exit).toMatchObject(clean);
    const { early, late } = JSON.parse(exit.stdout) as { early: number; late: number };
    console.log(`resident after 10 and 30 engines: ${early.toFixed(0)} and ${late.toFixed(0)} MiB`);
    expect(late - early).toBeLessThan(20); // 20 engines of 40 MiB each would be 800
  });

  it("gives the memory of a large KV cache back", async () => {
    const exit = await run(
      `
      const contexts = 64;
      const kvCache = { numBlocks: 1 + contexts * 64 };
      const engine = await createEngine({ model, dtype: "f32", kvCache });
      const rss = () => { gc(); return process.memoryUsage.rss() / 2 ** 20; };
      const { kvCache: { memory }, model: { vocabSize } } = engine.info;
      const loaded = rss();
      // Blocks that are cached are used again last, so that other prompts fill the whole cache.
      const prompt = (i) => Array.from({ length: 1023 }, (_, t) => (31 * i + 7 * t) % vocabSize);
      const requests = Array.from({ length: contexts }, (_, i) => ({ prompt: prompt(i), maxTokens: 1 }));
      await Promise.all(requests.map((request) => engine.generate(request)));
      const used = rss();
      await engine.close();
      console.log(JSON.stringify({ cache: memory / 2 ** 20, loaded, used, closed: rss() }));
    `,
      ["--expose-gc"],
      tidyMalloc,
    );
    expect(exit).toMatchObject(clean);
    const { cache, loaded, used, closed } = JSON.parse(exit.stdout) as Record<string, number>;
    const figures = [cache, loaded, used, closed].map((mebibytes) => mebibytes!.toFixed(0));
    console.log(`KV cache, resident when loaded, used, closed: ${figures.join(", ")} MiB`);
    expect(cache).toBeGreaterThanOrEqual(256);
    expect(used! - loaded!).toBeGreaterThan(0.9 * cache!);
    expect(used! - closed!).toBeGreaterThan(0.95 * cache!);
  });

  it("collects engines that were dropped without close", async () => {
    const exit = await run(
      `
      import { readdirSync } from "node:fs";
      const threads = () => readdirSync("/proc/self/task").length;
      const use = async () => {
        const engine = await createEngine({ model, threads: 2 });
        await engine.generate({ prompt: "Once", maxTokens: 2 });
        await engine.tokenizer.close();
      };
      await use();
      const before = threads();
      for (let i = 0; i < 10; i++) await use();
      for (let i = 0; i < 10; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 20)); }
      console.log(threads() - before);
    `,
      ["--expose-gc"],
    );
    expect(exit).toMatchObject(clean);
    expect(Number(exit.stdout)).toBeLessThan(6); // each engine has at least two threads
  });
});
