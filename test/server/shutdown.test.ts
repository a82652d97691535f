import { expect, test } from "vitest";
import { FakeEngine } from "../support/fake-engine.js";
import { connectTo, eventsOf, post, receiveAll, serve, until } from "../support/http.js";

test("close lets running answers end and takes no new ones", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  const silent = connectTo(server);
  await new Promise((resolve) => silent.on("connect", resolve));
  const body = { model: "fake", prompt: "a", max_tokens: 3000 };
  const running = [
    post(server.url, "/v1/completions", body),
    post(server.url, "/v1/completions", { ...body, stream: true }),
  ];
  await until(() => engine.stats().running === 2);
  const closed = server.close(10_000);
  await expect(post(server.url, "/v1/completions", body)).rejects.toThrow(/ECONNREFUSED|socket/);
  const [whole, stream] = await Promise.all(running);
  expect(JSON.parse(whole!.text).usage.completion_tokens).toBe(3000);
  expect(eventsOf(stream!.text).at(-1)).toBe("[DONE]");
  await closed;
  await server.close();
});

test("a request on a kept connection is refused with 503 while closing", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  const body = JSON.stringify({ model: "fake", prompt: "a", max_tokens: 2000 });
  const request = `POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
  const socket = connectTo(server);
  const received = receiveAll(socket);
  socket.write(request);
  await until(() => engine.stats().running === 1);
  const closed = server.close(10_000);
  socket.write(request);
  const text = await received;
  await closed;
  expect(text).toMatch(/^HTTP\/1.1 200 /);
  expect(text).toMatch(/HTTP\/1.1 503 .*shutting down/s);
});

test("close cuts off what does not end within the grace, and frees it", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  const body = { model: "fake", prompt: "a", max_tokens: 1e9, stream: true };
  const running = Array.from({ length: 8 }, () => post(server.url, "/v1/completions", body));
  const ends = Promise.allSettled(running);
  await until(() => engine.stats().running === 8);
  const begin = performance.now();
  await server.close(200);
  expect(performance.now() - begin).toBeLessThan(2000);
  for (const end of await ends) expect(end.status).toBe("rejected");
  await until(() => engine.stats().running === 0);
});
