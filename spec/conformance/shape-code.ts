// Any data of the types of shape code, for text.

import * as fc from "fast-check";
import type { HostExpr, HostPattern, HostProgram } from "../../compiler/ir/plan/host.ts";
import { anyNumber } from "./kernels.ts";

export const { pattern: anyHostPattern, expr: anyHostExpr } = fc.letrec<{ pattern: HostPattern; expr: HostExpr }>((tie) => ({
  pattern: fc.oneof({ depthSize: "small" }, fc.constantFrom("a", "_"), fc.array(tie("pattern"), { maxLength: 2 })),
  expr: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.record({ k: fc.constant("lit" as const), v: fc.oneof(anyNumber, fc.boolean(), fc.string()) }),
    fc.record({ k: fc.constant("var" as const), name: fc.string() }),
    fc.record({ k: fc.constant("unary" as const), op: fc.constantFrom("neg" as const, "not" as const), a: tie("expr") }),
    fc.record({
      k: fc.constant("binary" as const),
      op: fc.constantFrom("idiv" as const, "concat" as const),
      a: tie("expr"),
      b: tie("expr"),
    }),
    fc.record({
      k: fc.constant("record" as const),
      fields: fc.array(fc.record({ name: fc.string(), value: tie("expr") }), { maxLength: 2 }),
    }),
    fc.record({
      k: fc.constant("for" as const),
      clauses: fc.array(fc.record({ k: fc.constant("in" as const), pattern: tie("pattern"), from: tie("expr") }), { maxLength: 2 }),
      body: tie("expr"),
    }),
    fc.record({ k: fc.constant("call" as const), fn: fc.string(), args: fc.array(tie("expr"), { maxLength: 2 }), loc: fc.string() }),
  ),
}));

export const anyHost: fc.Arbitrary<HostProgram> = fc.record({
  functions: fc.array(fc.record({ name: fc.string(), params: fc.array(anyHostPattern, { maxLength: 2 }), body: anyHostExpr }), {
    maxLength: 2,
  }),
  bindings: fc.array(fc.record({ name: fc.string(), value: anyHostExpr, symbol: fc.boolean(), loc: fc.string() }), { maxLength: 2 }),
});
