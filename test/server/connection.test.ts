import { Agent } from "node:http";
import { expect, test } from "vitest";
import { startServer } from "../../lib/server/index.js";
import { FakeEngine } from "../support/fake-engine.js";
import { ask, connectTo, errorOf, post, receiveAll, serve, until } from "../support/http.js";

test("GET / names the endpoints", async () => {
  const { url } = await serve(new FakeEngine());
  const reply = await ask(url, "/");
  expect(reply.status).toBe(200);
  expect(reply.headers["content-type"]).toBe("text/plain; charset=utf-8");
  expect(reply.text).toContain("/v1/chat/completions");
  expect(reply.text.trim().split("\n")).toHaveLength(1);
});

test("health and models", async () => {
  const { url } = await serve(new FakeEngine(), { model: "org/name x" });
  const health = JSON.parse((await ask(url, "/health")).text);
  expect(health).toMatchObject({ status: "ok", stats: { running: 0, freeBlocks: 1000 } });
  const list = JSON.parse((await ask(url, "/v1/models")).text);
  expect(list).toMatchObject({ object: "list", data: [{ id: "org/name x", object: "model" }] });
  for (const path of ["/v1/models/org/name%20x", "/v1/models/org%2Fname%20x?a=b"]) {
    expect(JSON.parse((await ask(url, path)).text)).toEqual(list.data[0]);
  }
});

test("an unknown model is model_not_found", async () => {
  const { url } = await serve(new FakeEngine());
  for (const path of ["/v1/models/other", "/v1/models/..%2F..", "/v1/models/%00", "/v1/models/%"]) {
    const reply = await ask(url, path);
    expect(reply.status).toBe(404);
    expect(errorOf(reply)).toMatchObject({ param: "model", code: "model_not_found" });
  }
});

const paths = ["/", "/health", "/v1/models", "/v1/models/fake"];
const posts = ["/v1/completions", "/v1/chat/completions"];

test("HEAD has the head of GET and no body", async () => {
  const { url } = await serve(new FakeEngine());
  for (const path of paths) {
    const get = await ask(url, path);
    const head = await ask(url, path, { method: "HEAD" });
    expect(head).toMatchObject({ status: 200, text: "" });
    expect(head.headers["content-length"]).toBe(get.headers["content-length"]);
  }
});

test("OPTIONS and wrong methods tell what is allowed", async () => {
  const { url } = await serve(new FakeEngine());
  for (const path of [...paths, ...posts]) {
    const allow = posts.includes(path) ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    expect(await ask(url, path, { method: "OPTIONS" })).toMatchObject({
      status: 204,
      headers: { allow },
    });
    for (const method of [
      "PUT",
      "DELETE",
      "PATCH",
      "PURGE",
      posts.includes(path) ? "GET" : "POST",
    ]) {
      const reply = await ask(url, path, { method });
      expect(reply).toMatchObject({ status: 405, headers: { allow } });
      expect(errorOf(reply).code).toBe("method_not_supported");
    }
  }
});

const notRoutes = [
  "//v1/models",
  "/v1//models",
  "/%2e%2e/v1/models",
  "/v1/%6dodels",
  "/v1/models/../models",
  "/V1/models",
  "/v1/chat/completions/",
  "/health/",
  "/__proto__",
  "/constructor",
  "*",
  "/%",
  "/%ff%fe",
  `/${"a".repeat(8000)}`,
  "http://[::::]/x",
  "ftp://a/v1/models",
];

test("odd request targets are no routes", async () => {
  const { url } = await serve(new FakeEngine());
  for (const path of notRoutes) {
    expect([path, (await ask(url, path)).status]).toEqual([path, 404]);
    const reply = await ask(url, path, { method: "POST" });
    expect([404, 405]).toContain(reply.status);
  }
  expect((await ask(url, "/health")).status).toBe(200);
});

test("absolute form, queries and odd hosts reach the route", async () => {
  const { url } = await serve(new FakeEngine());
  for (const path of ["http://evil.example/health", "HTTPS://a:99999/health?x", "/health?%zz#a"]) {
    expect((await ask(url, path)).status).toBe(200);
  }
  for (const host of ["", "[", "a b", "evil.example:99999", "%00", "x".repeat(5000)]) {
    expect((await ask(url, "/health", { headers: { host } })).status).toBe(200);
  }
});

test("broken HTTP gets a 4xx or a closed connection, and the server goes on", async () => {
  const server = await serve(new FakeEngine());
  const broken = [
    "hello\r\n\r\n",
    "GET / HTTP/9.9\r\n\r\n",
    "GET /health HTTP/1.1\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    `GET / HTTP/1.1\r\nhost: a\r\nx: ${"y".repeat(17_000)}\r\n\r\n`,
    "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    "\0\0\0\0",
  ];
  for (const text of broken) {
    const socket = connectTo(server);
    const received = receiveAll(socket);
    socket.end(text);
    expect(await received).toMatch(/^($|HTTP\/1.1 4\d\d )/);
  }
  const long = connectTo(server);
  long.end(broken[6]!);
  expect(await receiveAll(long)).toContain(" 431 ");
  expect((await ask(server.url, "/health")).status).toBe(200);
});

test("one connection serves many requests, also after errors", async () => {
  const { url } = await serve(new FakeEngine());
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const headers = { "content-type": "application/json" };
  const good = JSON.stringify({ model: "fake", prompt: "a", max_tokens: 2 });
  const ports = new Set<number | undefined>();
  agent.on("free", (socket) => ports.add(socket.localPort));
  for (const body of [good, "{", good, "[]", "x".repeat(100_000), good]) {
    const reply = await ask(url, "/v1/completions", { method: "POST", headers, body, agent });
    expect(reply.status).toBe(body === good ? 200 : 400);
    await ask(url, "/nowhere", { method: "POST", headers, body, agent });
  }
  expect(ports.size).toBe(1);
  agent.destroy();
});

function rawStream(maxTokens: number): string {
  const body = JSON.stringify({ model: "fake", prompt: "a", max_tokens: maxTokens, stream: true });
  const head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  return `${head}content-length: ${body.length}\r\n\r\n${body}`;
}

test("pipelined requests are answered in order; when the connection goes, all of them end", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  const socket = connectTo(server);
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
  socket.write(rawStream(30) + rawStream(20) + rawStream(1e9) + rawStream(1e9));
  await until(() => text.split("[DONE]").length === 3);
  await until(() => engine.stats().running === 2);
  socket.destroy();
  await until(() => engine.stats().running === 0);
  const begin = performance.now();
  await server.close(5000);
  expect(performance.now() - begin).toBeLessThan(2000);
});

test("a client that sends half a body and leaves costs nothing", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  for (let i = 0; i < 20; i++) {
    const socket = connectTo(server);
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"mod`,
    );
    setTimeout(() => socket.destroy(), i);
  }
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(engine.tokens).toBe(0);
  expect((await post(server.url, "/v1/completions", {})).status).toBe(400);
});

test("a client that is slow with its head or its body is closed", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine, { headersTimeoutMs: 300, requestTimeoutMs: 600 });
  const head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  const parts = [
    "",
    "P",
    head,
    `${head}content-length: 50\r\n\r\n`,
    `${head}content-length: 50\r\n\r\n{`,
  ];
  const slow = Array.from({ length: 100 }, (_, i) => {
    const socket = connectTo(server);
    const received = receiveAll(socket);
    socket.write(parts[i % parts.length]!);
    return received;
  });
  const begin = performance.now();
  for (const received of slow) expect(await received).toMatch(/^($|HTTP\/1.1 4\d\d )/);
  expect(performance.now() - begin).toBeLessThan(5000);
  expect((await ask(server.url, "/health")).status).toBe(200);
});

test("more connections than allowed are closed", async () => {
  const server = await serve(new FakeEngine(), { maxConnections: 3 });
  const sockets = Array.from({ length: 3 }, () => connectTo(server));
  await Promise.all(
    sockets.map((socket) => new Promise((resolve) => socket.on("connect", resolve))),
  );
  expect(await receiveAll(connectTo(server))).toBe("");
  sockets[0]!.destroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect((await ask(server.url, "/health")).status).toBe(200);
});

test("bad options are named", async () => {
  const engine = new FakeEngine();
  for (const [name, value] of [
    ["host", ""],
    ["port", -1],
    ["port", 1.5],
    ["maxConnections", 0],
    ["headersTimeoutMs", 30_001],
    ["requestTimeoutMs", 0],
    ["maxBodyBytes", Number.NaN],
    ["stallTimeoutMs", 2 ** 31],
    ["maxBufferedChars", "5"],
  ] as const) {
    const error = startServer(engine, { port: 0, [name]: value });
    await expect(error).rejects.toMatchObject({
      code: "ERR_ARGUMENT",
      details: { parameter: name },
    });
  }
});
