import { spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { createEngine, type Engine } from "pagoda-llm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { mainScript, runCli, startCli } from "../support/cli.js";
import { demoModel } from "../support/demo.js";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ model: demoModel });
});
afterAll(() => engine.close());

const story = "Once upon a time";
const base = ["generate", "--model", demoModel];

test("prints the text that the engine generates", async () => {
  const expected = await engine.generate({ prompt: story, maxTokens: 30, temperature: 0 });
  const words = [...base, "--prompt", story, "--max-tokens", "30", "--temperature", "0"];
  expect(await runCli(words)).toEqual({
    code: 0,
    signal: null,
    stdout: `${expected.text}\n`,
    stderr: "",
  });
});

test("--json prints one object, with all sampling options passed on", async () => {
  const { usage, ...expected } = await engine.generate({
    prompt: story,
    maxTokens: 50,
    temperature: 1.1,
    topK: 30,
    topP: 0.9,
    minP: 0.01,
    seed: 11,
    stop: ["zzzz", "."],
  });
  const options = "--max-tokens 50 --temperature 1.1 --top-k 30 --top-p .9 --min-p 1e-2 --seed 11";
  const words = [...base, "--prompt", story, ...options.split(" ")];
  const result = await runCli([...words, "--stop", "zzzz", "--stop", ".", "--json"]);
  expect([result.code, result.stderr]).toEqual([0, ""]);
  expect(result.stdout.trimEnd().split("\n")).toHaveLength(1);
  const { usage: measured, ...printed } = JSON.parse(result.stdout);
  expect(printed).toEqual(expected);
  expect(Object.keys(measured)).toEqual(Object.keys(usage));
  expect(measured.outputTokens).toBe(expected.tokenIds.length);
});

const heading = (index: number, count: number, score?: number): string =>
  `--- ${index + 1} of ${count}${score === undefined ? "" : `, score ${score.toFixed(4)}`} ---`;

test("--n prints each output under a heading, --json all of them", async () => {
  const words = [...base, "--prompt", story, "--max-tokens", "20", "--seed", "3", "--n", "3"];
  const { outputs } = await engine.generate({ prompt: story, maxTokens: 20, seed: 3, n: 3 });
  const parts = outputs.map(({ text }, i) => `${heading(i, 3)}\n${text}\n`);
  expect(await runCli(words)).toMatchObject({ code: 0, stdout: parts.join("\n"), stderr: "" });
  const { stdout } = await runCli([...words, "--json"]);
  expect(JSON.parse(stdout).outputs).toEqual(outputs);
});

test("--best-of and --beam-width print the best outputs with their scores", async () => {
  const common = { prompt: story, maxTokens: 20, n: 2 };
  const words = [...base, "--prompt", story, "--max-tokens", "20"];
  const drawn = ["--seed", "3", "--best-of", "4"];
  const searched = "--beam-width 4 --length-penalty -0.5 --early-stopping never".split(" ");
  const beam = { width: 4, lengthPenalty: -0.5, earlyStopping: "never" } as const;
  for (const [more, fields] of [
    [drawn, { seed: 3, bestOf: 4 }],
    [searched, { beam }],
  ] as const) {
    const { outputs } = await engine.generate({ ...common, ...fields });
    const parts = outputs.map(({ text, score }, i) => `${heading(i, 2, score)}\n${text}\n`);
    const both = await runCli([...words, ...more, "--n", "2"]);
    expect(both).toMatchObject({ code: 0, stdout: parts.join("\n"), stderr: "" });
    const one = await runCli([...words, ...more]);
    expect(one.stdout).toBe(`${outputs[0]!.text}\n`);
  }
});

test("--prompt-ids, --ignore-eos, --dtype and --threads", async () => {
  const ids = [...(await engine.tokenizer!.encode(story))];
  const words = [...base, "--prompt-ids", ids.join(","), "--temperature", "0", "--json"];
  const { stdout } = await runCli([...words, "--max-tokens", "20"]);
  const bf16 = JSON.parse(stdout);
  expect(bf16.promptTokenIds).toEqual(ids);
  const same = await engine.generate({ prompt: ids, maxTokens: 20, temperature: 0 });
  expect(bf16.tokenIds).toEqual(same.tokenIds);

  const more = ["--dtype", "f32", "--threads", "1", "--ignore-eos", "--max-tokens", "400"];
  const long = JSON.parse((await runCli([...words, ...more])).stdout);
  expect(long.tokenIds).toHaveLength(400);
  expect(long.finishReason).toBe("length");
  const f32 = await createEngine({ model: demoModel, dtype: "f32", threads: 1 });
  const expected = await f32.generate({
    prompt: ids,
    maxTokens: 400,
    temperature: 0,
    ignoreEos: true,
  });
  await f32.close();
  expect(long.tokenIds).toEqual(expected.tokenIds);
});

test("a value that begins with a dash, and characters of several bytes", async () => {
  const prompt = "-- 你好 👩‍👩‍👧 é";
  const result = await runCli([...base, `--prompt=${prompt}`, "--max-tokens", "3", "--json"]);
  const { promptTokenIds } = JSON.parse(result.stdout);
  expect(promptTokenIds).toEqual([...(await engine.tokenizer!.encode(prompt))]);
});

test("standard output that is closed early ends it quietly", async () => {
  const words = [...base, "--prompt", story, "--ignore-eos", "--temperature", "0"];
  const { child, result, output } = startCli(words);
  await output(/\w/);
  child.stdout!.destroy();
  const { code, signal, stderr } = await result;
  expect([code, signal, stderr]).toEqual([0, null, ""]);
});

test("standard output that cannot be written is an error", async () => {
  const full = openSync("/dev/full", "w");
  const words = [mainScript, ...base, "--prompt", story, "--max-tokens", "5"];
  const { status, stderr } = spawnSync(process.execPath, words, {
    stdio: ["ignore", full, "pipe"],
    env: { ...process.env, PAGODA_DEBUG: "" },
  });
  closeSync(full);
  expect(status).toBe(1);
  expect(stderr.toString()).toMatch(/^pagoda: .*ENOSPC/);
});

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)("%s cancels and gives exit code %i", async (signal, code) => {
  const words = [...base, "--prompt", story, "--ignore-eos", "--threads", "1", "--dtype", "f32"];
  const { child, result, output } = startCli(words);
  await output(/\w/);
  child.kill(signal);
  const ended = await result;
  expect([ended.code, ended.signal, ended.stderr]).toEqual([code, null, ""]);
});
