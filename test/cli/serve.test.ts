import { execFile } from "node:child_process";
import { promisify } from "node:util";
import OpenAI from "openai";
import { expect, test } from "vitest";
import { runCli, startCli, type RunningCli } from "../support/cli.js";
import { demoModel } from "../support/demo.js";
import { ask, eventsOf, post } from "../support/http.js";

const base = ["serve", "--model", demoModel, "--port", "0"];

interface Served extends RunningCli {
  readonly url: string;
  readonly curl: string;
}

async function startServe(words: readonly string[] = base): Promise<Served> {
  const cli = startCli(words);
  const [, url, curl] = await cli.output(/^Serving demo on (http:\S+)\n(curl .*)\n$/);
  return { ...cli, url: url!, curl: curl! };
}

const story = { model: "demo", prompt: "Once upon a time", temperature: 0, ignore_eos: true };

interface Health {
  status: string;
  stats: { running: number; freeBlocks: number; totalBlocks: number };
}

async function health(url: string): Promise<Health> {
  return JSON.parse((await ask(url, "/health")).text);
}

test("prints its address and a curl line that works", async () => {
  const { url, curl } = await startServe();
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  expect(curl).toContain(`${url}/v1/chat/completions`);
  const { stdout } = await promisify(execFile)("sh", ["-c", `${curl} -s`]);
  expect(JSON.parse(stdout).choices[0].message.content).toMatch(/\w/);
  const client = new OpenAI({ apiKey: "none", baseURL: `${url}/v1` });
  const answer = await client.completions.create({ model: "demo", prompt: "Once" });
  expect(answer.usage?.completion_tokens).toBe(16);
});

test("a port in use is told before the model is loaded", async () => {
  const { url } = await startServe();
  const { port } = new URL(url);
  const result = await runCli(["serve", "--model", "/nowhere", "--port", port]);
  expect(result.code).toBe(1);
  expect(result.stderr).toBe(
    `pagoda: Port ${port} of 127.0.0.1 is in use; choose another with --port (0 picks a free one) (EADDRINUSE)\n`,
  );
  expect((await health(url)).status).toBe("ok");
});

test.each(["SIGTERM", "SIGINT"] as const)("%s without requests ends it at once", async (signal) => {
  const { child, result } = await startServe();
  const begin = performance.now();
  child.kill(signal);
  expect(await result).toMatchObject({ code: 0, signal: null });
  expect(performance.now() - begin).toBeLessThan(3000);
});

test("SIGTERM lets 32 running streams end, refuses new ones, and exits with 0", async () => {
  const { child, result, url } = await startServe();
  const body = { ...story, max_tokens: 120, stream: true };
  const alone = await post(url, "/v1/completions", body);
  const running = Array.from({ length: 32 }, () => post(url, "/v1/completions", body));
  await untilRunning(url, 32);
  child.kill("SIGTERM");
  await new Promise((resolve) => setTimeout(resolve, 30));
  await expect(post(url, "/v1/completions", body)).rejects.toThrow(/ECONNREFUSED/);
  const text = streamText(alone.text);
  for (const reply of await Promise.all(running)) expect(streamText(reply.text)).toBe(text);
  const ended = await result;
  expect([ended.code, ended.signal]).toEqual([0, null]);
  expect(ended.stderr).toBe("Shutting down: running answers may end, new requests are refused\n");
});

test("a second SIGTERM does not wait", async () => {
  const { child, result, url } = await startServe([...base, "--threads", "1", "--dtype", "f32"]);
  const prompt = Array.from({ length: 32 }, (_, i) => `A story about ${i}`);
  const running = post(url, "/v1/completions", { ...story, prompt, max_tokens: 900 });
  running.catch(() => undefined);
  await untilRunning(url, 32);
  child.kill("SIGTERM");
  await new Promise((resolve) => setTimeout(resolve, 100));
  child.kill("SIGTERM");
  expect((await result).code).toBe(143);
  await expect(running).rejects.toThrow();
});

test("a client that is killed in mid-stream costs nothing", async () => {
  const { url } = await startServe();
  const data = JSON.stringify({ ...story, max_tokens: 1000, stream: true });
  const curl = startCurl(url, data);
  await untilRunning(url, 1);
  curl.kill("SIGKILL");
  await untilStats(url, (stats) => stats.running === 0 && stats.freeBlocks === stats.totalBlocks);
});

function startCurl(url: string, data: string): ReturnType<typeof execFile> {
  const header = "Content-Type: application/json";
  return execFile("curl", ["-sN", `${url}/v1/completions`, "-H", header, "-d", data]);
}

function untilRunning(url: string, count: number): Promise<void> {
  return untilStats(url, ({ running }) => running === count);
}

async function untilStats(url: string, holds: (stats: Health["stats"]) => boolean): Promise<void> {
  const end = Date.now() + 5000;
  for (;;) {
    const { stats } = await health(url);
    if (holds(stats)) return;
    if (Date.now() > end) throw new Error(`Not ${holds}: ${JSON.stringify(stats)}`);
  }
}

function streamText(text: string): string {
  const events = eventsOf(text);
  expect(events.pop()).toBe("[DONE]");
  return (events as { choices: [{ text: string }] }[])
    .map(({ choices }) => choices[0].text)
    .join("");
}
