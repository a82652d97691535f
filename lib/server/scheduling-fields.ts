import type { GenerateRequest } from "../engine/types.js";
import { defined } from "./defined.js";
import type { Fields } from "./fields.js";

/** The fields that {@link readScheduling} reads; the first two are named as in vLLM. */
export const schedulingFields = ["priority", "cache_salt", "deadline_ms"] as const;

const maxPriority = 2 ** 20;
/** The longest timer that Node takes. */
const maxDeadlineMs = 2 ** 31 - 1;

/** What both endpoints say about when a request runs and with whom it shares cached prefixes. */
export function readScheduling(
  fields: Fields,
): Pick<GenerateRequest, "priority" | "cacheSalt" | "deadlineMs"> {
  return defined({
    priority: fields.integer("priority", { min: -maxPriority, max: maxPriority }),
    cacheSalt: fields.string("cache_salt"),
    deadlineMs: fields.number("deadline_ms", { min: 1, max: maxDeadlineMs }),
  });
}
