import { createEngine, type ChatMessage, type Engine } from "pagoda-llm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli, startCli, type RunningCli } from "../support/cli.js";
import { demoModel } from "../support/demo.js";

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ model: demoModel });
});
afterAll(() => engine.close());

/** Sampled with a high temperature, so that an answer depends on all that was said before. */
const sampling = { temperature: 1.5, seed: 3, maxTokens: 30 };
const base = ["chat", "--model", demoModel, "--temperature", "1.5", "--seed", "3"];
const short = [...base, "--max-tokens", "30"];

/** What the model answers to the lines, one after the other in one conversation. */
async function conversation(lines: readonly string[], system?: string): Promise<string[]> {
  const messages: ChatMessage[] = system === undefined ? [] : [{ role: "system", content: system }];
  const answers: string[] = [];
  for (const content of lines) {
    messages.push({ role: "user", content });
    const { text } = await engine.chat({ messages, ...sampling });
    messages.push({ role: "assistant", content: text });
    answers.push(text);
  }
  return answers;
}

test("answers each line of a script and keeps the conversation", async () => {
  const lines = ["Hello", "What is your name?", "Tell me a story."];
  const answers = await conversation(lines);
  const result = await runCli(short, `${lines.join("\n")}\n`);
  expect(result).toMatchObject({ code: 0, stderr: "", stdout: `${answers.join("\n")}\n` });
  const [alone] = await conversation(lines.slice(2));
  expect(answers[2]).not.toBe(alone);
});

test("/reset forgets all but the system message; empty lines are skipped; the last line needs no end", async () => {
  const system = "You are brief.";
  const [first] = await conversation(["Hello"], system);
  const [second] = await conversation(["What is 2 + 3?"], system);
  const input = "Hello\n\n  \n/reset\nWhat is 2 + 3?";
  const result = await runCli([...short, "--system", system], input);
  expect(result).toMatchObject({ code: 0, stderr: "", stdout: `${first}\n${second}\n` });
});

test("/exit ends it although the input is still open", async () => {
  const [answer] = await conversation(["Hello"]);
  const { child, result } = startCli(short);
  child.stdin!.write("Hello\n/exit\nHello\n");
  expect(await result).toMatchObject({ code: 0, stderr: "", stdout: `${answer}\n` });
});

test("no input is no conversation", async () => {
  expect(await runCli(base)).toMatchObject({ code: 0, stdout: "", stderr: "" });
});

test("a line that cannot be answered is told, the next ones are answered, the exit code is 1", async () => {
  const [answer] = await conversation(["Hello"]);
  const result = await runCli(short, `${"word ".repeat(3000)}\nHello\n`);
  expect(result.code).toBe(1);
  expect(result.stderr).toMatch(/^pagoda: .*\(ERR_CONTEXT_LENGTH\)\n$/);
  expect(result.stdout).toBe(`${answer}\n`);
});

/** Waits until nothing was printed for a while; all that was printed. */
async function quiet({ output }: RunningCli): Promise<string> {
  let last = -1;
  for (;;) {
    const [text] = await output(/^[^]*$/);
    if (text.length === last) return text;
    last = text.length;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

test("an interrupt stops the answer, not the conversation; one between answers ends it", async () => {
  const words = [...base, "--ignore-eos", "--threads", "1", "--dtype", "f32"];
  const cli = startCli(words);
  const { child, result, output } = cli;
  child.stdin!.write("Hello\n");
  await output(/\w/);
  child.kill("SIGINT");
  const first = await quiet(cli);
  child.stdin!.write("/reset\nHello\n");
  await output(new RegExp(`^[^]{${first.length}}[^]*\\w`));
  child.kill("SIGINT");
  const both = await quiet(cli);
  expect(both.startsWith(first)).toBe(true);
  expect(first.length).toBeGreaterThan(1);
  expect(first.endsWith("\n") && both.endsWith("\n")).toBe(true);
  child.kill("SIGINT");
  expect(await result).toMatchObject({ code: 130, signal: null, stderr: "" });
});

test("standard output that is closed early ends it quietly", async () => {
  const { child, result, output } = startCli([...base, "--ignore-eos"]);
  child.stdin!.write("Hello\nHello\n");
  await output(/\w/);
  child.stdout!.destroy();
  expect(await result).toMatchObject({ code: 0, signal: null, stderr: "" });
});
