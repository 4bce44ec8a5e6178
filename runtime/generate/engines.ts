// Which driver a session's graph has, by its inputs and outputs.

import { InputError } from "../errors.ts";
import type { Session } from "../session.ts";
import { photoNames, sizeOf, type Engine } from "./engine.ts";
import { SharedCache } from "./shared-engine.ts";
import { OneSequence } from "./single-engine.ts";

/** What drives the graph of a session. Throws InputError when it is none of a language model. */
export function engineOf(session: Session): Engine {
  const { plan } = session;
  const width = sizeOf(plan, plan.inputs, "given", 1);
  const vocabulary = sizeOf(plan, plan.outputs, "logits", 1);
  const takes = (...names: readonly string[]): boolean => names.every((name) => plan.inputs.some((i) => i.name === name));
  const most = (name: string): number => plan.symbols.find((s) => s.name === name)?.upper ?? NaN;
  const past = plan.symbols.some((s) => s.name === "past" && s.argument === true) ? most("past") : NaN;
  const whole = (...numbers: readonly number[]): boolean => numbers.every((n) => Number.isInteger(n));
  if (whole(vocabulary) && plan.outputs.some((o) => o.name === "next")) {
    if (takes("rows", "given") && whole(width, past)) return new OneSequence(session, { capacity: past, vocabulary, width });
    const [sequences, capacity] = [most("sampled"), most("N")];
    const candidates = sizeOf(plan, plan.outputs, "places", 1);
    if (takes("rows", "given", "cached") && whole(width, sequences, capacity, candidates)) {
      const engine = new SharedCache(session, { capacity, vocabulary, width, sequences, candidates });
      if (engine.photos !== undefined || !takes(photoNames.image)) return engine;
    }
  }
  throw new InputError(
    `${plan.name} is not a language model's graph: it must be one like graphs/llama.uhd, with rows, given and past, logits and next, graphs/llama-chat.uhd or graphs/llava-uhd-chat.uhd`,
  );
}
