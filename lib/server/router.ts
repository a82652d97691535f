import { ApiError } from "./api-error.js";
import { chatCompletions } from "./chat-completions.js";
import { completions } from "./completions.js";
import { health, index, metrics, model, models } from "./information.js";
import type { Exchange } from "./options.js";

/** An endpoint; `id` is what a route that ends in `/{id}` matched. */
export type Endpoint = (exchange: Exchange, id: string) => void | Promise<void>;

interface Route {
  readonly method: "GET" | "POST";
  readonly endpoint: Endpoint;
}

const routes: ReadonlyMap<string, Route> = new Map([
  ["/", { method: "GET", endpoint: index }],
  ["/health", { method: "GET", endpoint: health }],
  ["/metrics", { method: "GET", endpoint: metrics }],
  ["/v1/models", { method: "GET", endpoint: models }],
  ["/v1/completions", { method: "POST", endpoint: completions }],
  ["/v1/chat/completions", { method: "POST", endpoint: chatCompletions }],
]);

const modelRoute: Route = { method: "GET", endpoint: model };
const modelPrefix = "/v1/models/";

export interface Match {
  readonly endpoint: Endpoint;
  readonly id: string;
}

/** The endpoint of a request; throws 404, or 405 with `Allow`. Paths are compared as they are, never normalised. */
export function match(method: string, url: string): Match {
  const path = pathOf(url);
  const id = path.startsWith(modelPrefix) ? decode(path.slice(modelPrefix.length)) : "";
  const route = id === "" ? routes.get(path) : modelRoute;
  if (route === undefined) {
    const message = `Invalid URL (${method} ${path.slice(0, 100)})`;
    throw new ApiError(404, "invalid_request_error", message, { code: "unknown_url" });
  }
  const allow = route.method === "GET" ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  if (method === "OPTIONS") return { endpoint: options(allow), id };
  if (method === route.method || (method === "HEAD" && route.method === "GET")) {
    return { endpoint: route.endpoint, id };
  }
  throw new ApiError(405, "invalid_request_error", `Use ${route.method} on ${path}`, {
    code: "method_not_supported",
    headers: { allow },
  });
}

/** The path of a request target in origin form or absolute form (RFC 9112, 3.2), without the query. */
function pathOf(url: string): string {
  const target = url.replace(/^https?:\/\/[^/?#]*/i, "");
  const end = target.search(/[?#]/);
  const path = end < 0 ? target : target.slice(0, end);
  return path === "" ? "/" : path;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function options(allow: string): Endpoint {
  return ({ res }) => void res.writeHead(204, { allow }).end();
}
