import { inspect } from "node:util";

/** An error in one line: `pagoda: <message> (<code>)`; with its stack when PAGODA_DEBUG is set. */
export function errorLine(
  error: unknown,
  debug: string | undefined = process.env["PAGODA_DEBUG"],
): string {
  if (debug !== undefined && debug !== "") return `pagoda: ${inspect(error)}`;
  const { message, code } = (error ?? {}) as { message?: unknown; code?: unknown };
  const text = typeof message === "string" ? message : String(error);
  const suffix = typeof code === "string" ? ` (${code})` : "";
  return `pagoda: ${text.replace(/\s*\n\s*/g, " ")}${suffix}`;
}
