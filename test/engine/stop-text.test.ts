import { describe, expect, it } from "vitest";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { FakeTokenizer, type FakeTokenizerOptions } from "../support/fake-tokenizer.js";

checkEnginesAfterEach();

/** An engine that writes `text` behind a prompt of one token, a byte a token, then endlessly "z". */
function engineWriting(
  text: string,
  options: FakeTokenizerOptions = {},
  isFinite: (context: readonly number[]) => boolean = () => true,
) {
  const bytes = [...Buffer.from(text)];
  const nextToken = ({ length }: readonly number[]) => bytes[length - 1] ?? 122;
  const executor = new FakeExecutor({ nextToken, isFinite });
  const tokenizer = new FakeTokenizer(options);
  return { engine: testEngine(executor, { tokenizer }), executor, tokenizer };
}

const prompt = [1];

describe("a stop text", () => {
  it("ends the generation; text and ids end at the token that completed it", async () => {
    const { engine } = engineWriting("one two three");
    const result = await engine.generate({ prompt, stop: " th" });
    expect(result).toMatchObject({ text: "one two", finishReason: "stop" });
    expect(Buffer.from(result.tokenIds).toString()).toBe("one two th");
    expect(result.usage.outputTokens).toBe(10);
  });

  it("never shows in part, however its text is split over deltas", async () => {
    const { engine } = engineWriting("a STOP");
    let seen = "";
    for await (const { text } of engine.generate({ prompt, stop: ["STOP"] })) {
      seen += text;
      expect("a ".startsWith(seen)).toBe(true);
    }
    expect(seen).toBe("a ");
  });

  it("may lie inside of split characters", async () => {
    const { engine } = engineWriting("x😀é!");
    const result = await engine.generate({ prompt, stop: ["é"] });
    expect(result.text).toBe("x😀");
    expect(result.tokenIds).toHaveLength(7);
  });

  it("that ends first wins, ties by list order", async () => {
    const { engine } = engineWriting("xabcd");
    expect((await engine.generate({ prompt, stop: ["abcd", "bc"] })).text).toBe("xa");
    expect((await engine.generate({ prompt, stop: ["bc", "abc"] })).text).toBe("xa");
    expect((await engine.generate({ prompt, stop: ["abc", "bc"] })).text).toBe("x");
  });

  it("that does not come changes nothing: held text is flushed at the end", async () => {
    const { engine } = engineWriting("go STO");
    const result = await engine.generate({ prompt, stop: ["STOP"], maxTokens: 6 });
    expect(result).toMatchObject({ text: "go STO", finishReason: "length" });
  });

  it("completed by the last token allowed counts as stop", async () => {
    const { engine } = engineWriting("go STOP");
    const result = await engine.generate({ prompt, stop: ["STOP"], maxTokens: 7 });
    expect(result).toMatchObject({ text: "go ", finishReason: "stop" });
  });

  it("gives the same result however late the tokenizer answers", async () => {
    const results = [];
    for (const delay of [0, 1, 3, 20]) {
      const { engine, executor } = engineWriting("some text END more", { feedDelay: () => delay });
      const { usage, ...result } = await engine.generate({ prompt, stop: ["END"], maxTokens: 60 });
      results.push({ ...result, outputTokens: usage.outputTokens });
      if (delay === 20) expect(executor.steps.length).toBeGreaterThan(result.tokenIds.length);
    }
    expect(new Set(results.map((result) => JSON.stringify(result))).size).toBe(1);
    expect(results[0]).toMatchObject({ text: "some text ", finishReason: "stop" });
  });

  it("hides what happened in steps behind it, even logits that are not finite", async () => {
    const isFinite = ({ length }: readonly number[]) => length < 8;
    const { engine } = engineWriting("ab END", { feedDelay: () => 10 }, isFinite);
    expect((await engine.generate({ prompt, stop: ["END"] })).text).toBe("ab ");
    await expect(engine.generate({ prompt })).rejects.toMatchObject({ code: "ERR_NON_FINITE" });
  });

  it("hides a failure of a step behind it", async () => {
    const bytes = [...Buffer.from("ab END")];
    const executor = new FakeExecutor({
      nextToken: ({ length }) => bytes[length - 1] ?? 122,
      onCall: (call) => {
        if (call === 8) throw new Error("device lost");
      },
    });
    const tokenizer = new FakeTokenizer({ feedDelay: () => 5 });
    const engine = testEngine(executor, { tokenizer });
    const stopped = engine.generate({ prompt, stop: ["END"] });
    const other = engine.generate({ prompt, maxTokens: 50 });
    await expect(other).rejects.toMatchObject({ code: "ERR_BACKEND_FAILED" });
    expect((await stopped).text).toBe("ab ");
  });
});

describe("detokenising", () => {
  it("does not delay the next step, but steps do not run away from it", async () => {
    let isHeld = true;
    let calls = 0;
    const executor = new FakeExecutor({
      nextToken: () => 97,
      onCall: async () => {
        calls++;
        await new Promise((resolve) => setImmediate(resolve));
      },
    });
    const tokenizer = new FakeTokenizer({ feedDelay: () => (isHeld ? 300 : 0) });
    const engine = testEngine(executor, { tokenizer });
    const generation = engine.generate({ prompt, maxTokens: 60 });
    for (let i = 0; i < 150; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(calls).toBe(32);
    isHeld = false;
    expect((await generation).text).toBe("a".repeat(60));
  });

  it("leaves a request running for its user, without blocks, until its text is out", async () => {
    const { engine } = engineWriting("abc", { feedDelay: () => 30 });
    const generation = engine.generate({ prompt, maxTokens: 3 });
    while (engine.stats().outputTokens < 3) await new Promise((resolve) => setImmediate(resolve));
    expect(engine.stats()).toMatchObject({ freeBlocks: 64, running: 0, waiting: 0 });
    expect(generation.state).toBe("running");
    expect((await generation).text).toBe("abc");
  });

  it("closes the stream of every request, however it ends", async () => {
    const { engine, tokenizer } = engineWriting("abcdef", { feedDelay: () => 3 });
    await engine.generate({ prompt, stop: ["c"] });
    await engine.generate({ prompt, maxTokens: 2 });
    await engine.generate({ prompt, stopTokenIds: [99] });
    for await (const _ of engine.generate({ prompt, maxTokens: 40 })) break;
    expect(tokenizer.openStreams).toBe(0);
  });

  it("that fails ends the requests of that step, and no others", async () => {
    const { engine, tokenizer } = engineWriting("abcdef");
    const feed = tokenizer.feed.bind(tokenizer);
    let feeds = 0;
    tokenizer.feed = async (batch) => {
      if (feeds++ === 2) throw new Error("worker lost");
      return feed(batch);
    };
    await expect(engine.generate({ prompt, maxTokens: 9 })).rejects.toThrow("worker lost");
    expect((await engine.generate({ prompt, maxTokens: 3 })).text).toBe("abc");
  });
});
