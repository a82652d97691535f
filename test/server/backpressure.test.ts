import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import type { Socket } from "node:net";
import { ServerResponse } from "node:http";
import { expect, onTestFinished, test, vi } from "vitest";
import { FakeEngine } from "../support/fake-engine.js";
import { connectTo, eventsOf, post, serve, until } from "../support/http.js";

const bigToken = "x".repeat(10_000);

function rawPost(body: object): string {
  const text = JSON.stringify(body);
  const head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  return `${head}content-length: ${text.length}\r\n\r\n${text}`;
}

const endless = { model: "fake", prompt: "a", max_tokens: 1e9, stream: true };

test("a client that reads nothing is cut off when too much is held for it", async () => {
  const engine = new FakeEngine({ tokenText: () => bigToken });
  const server = await serve(engine, { maxBufferedChars: 100_000, stallTimeoutMs: 60_000 });
  const socket = connectTo(server);
  socket.pause();
  socket.write(rawPost(endless));
  await until(() => engine.stats().running === 1);
  await until(() => engine.stats().running === 0, 20_000);
  expect(engine.stats().freeBlocks).toBe(engine.stats().totalBlocks);
  expect(engine.tokens * bigToken.length).toBeLessThan(60_000_000); // the rest is in the system's buffers
});

test("a client that reads nothing is cut off after the stall timeout", async () => {
  const engine = new FakeEngine({ tokenText: () => bigToken, tokenMs: 1 });
  const server = await serve(engine, { maxBufferedChars: 2 ** 28, stallTimeoutMs: 300 });
  const socket = connectTo(server);
  socket.pause();
  socket.write(rawPost(endless));
  await until(() => engine.stats().running === 1);
  await until(() => engine.stats().running === 0, 10_000);
});

/** The server's side of the next connection. */
function acceptedSocket(): Promise<Socket> {
  return new Promise((resolve) => {
    const onSocket = (message: unknown): void => {
      unsubscribe("net.server.socket", onSocket);
      resolve((message as { readonly socket: Socket }).socket);
    };
    subscribe("net.server.socket", onSocket);
  });
}

test("a finished answer that nobody reads does not hold its connection for ever", async () => {
  const size = 30_000_000;
  const engine = new FakeEngine({ tokenText: () => "x".repeat(size) });
  const server = await serve(engine, { stallTimeoutMs: 300 });
  for (const stream of [false, true]) {
    const accepted = acceptedSocket();
    const socket = connectTo(server);
    socket.pause();
    socket.write(rawPost({ ...endless, max_tokens: 1, stream }));
    await once(await accepted, "close");
    const closed = once(socket, "close");
    socket.resume();
    await closed;
    expect(socket.bytesRead).toBeLessThan(size);
  }
});

test("a slow reader that goes on reading gets everything", async () => {
  const engine = new FakeEngine({ tokenText: (i) => `${i}:${bigToken}` });
  const server = await serve(engine, { maxBufferedChars: 2 ** 26, stallTimeoutMs: 2000 });
  const socket = connectTo(server);
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
    socket.pause();
    setTimeout(() => socket.resume(), 5);
  });
  socket.write(rawPost({ ...endless, max_tokens: 1500 }));
  await until(() => text.includes("[DONE]"), 30_000);
  const numbers = [...text.matchAll(/"text":"(\d+):/g)].map((match) => Number(match[1]));
  expect(numbers[0]).toBe(0);
  expect(text.length).toBeGreaterThan(15_000_000);
  expect(text.match(/\d+:x/g)).toHaveLength(1500);
});

test("deltas of one turn of the event loop leave in one write", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  const write = vi.spyOn(ServerResponse.prototype, "write");
  onTestFinished(() => write.mockRestore());
  const prompt = Array.from({ length: 50 }, (_, i) => `prompt ${i}`);
  const body = { model: "fake", prompt, max_tokens: 20, stream: true };
  const events = eventsOf((await post(server.url, "/v1/completions", body)).text);
  expect(events.length).toBeGreaterThan(900);
  expect(write.mock.calls.length).toBeGreaterThan(5);
  expect(write.mock.calls.length).toBeLessThan(100);
});

test("a healthy stream is exact while others are cut off", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine, { stallTimeoutMs: 200 });
  const body = { model: "fake", prompt: "steady", max_tokens: 300 };
  const alone = JSON.parse((await post(server.url, "/v1/completions", body)).text);
  const sockets = Array.from({ length: 5 }, () => connectTo(server));
  for (const socket of sockets) socket.pause().write(rawPost(endless));
  await until(() => engine.stats().running === 5);
  const reply = await post(server.url, "/v1/completions", { ...body, stream: true });
  const events = eventsOf(reply.text).slice(0, -1) as { choices: [{ text: string }] }[];
  expect(events.map((event) => event.choices[0].text).join("")).toBe(alone.choices[0].text);
  for (const socket of sockets) socket.destroy();
  await until(() => engine.stats().running === 0);
});
