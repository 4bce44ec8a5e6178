// Calls: which function, operation, module or instance a call means. The rules of each are in host.ts, operations.ts,
// ragged.ts and modules.ts.

import { closest } from "../diagnostics/index.ts";
import { isDType } from "../ir/dtype.ts";
import type { Span } from "../ir/loc.ts";
import { hostBuiltins } from "../ir/plan/host-builtins.ts";
import type { Expr } from "../syntax/ast.ts";
import { isOpName, opNames } from "../../ops/index.ts";
import { knownValue } from "./constants.ts";
import { errorValue, type Cx, type Scope, type Value } from "./context.ts";
import { builtinCall, functionCall, isBuiltin } from "./host.ts";
import { raggedCall } from "./ragged.ts";
import { suggestion } from "./report.ts";
import { opCall } from "./operations.ts";
import { string } from "./types.ts";
import { hostExpr, kindText, originOf } from "./values.ts";

export function call(cx: Cx, e: Extract<Expr, { kind: "call" }>, scope: Scope): Value {
  const callee = e.callee;
  const name = callee.kind === "name" ? callee.name : undefined;
  const declared = name !== undefined && (scope.find(name) !== undefined || scope.unit.names.has(name) || scope.unit.missing.has(name));
  if (name !== undefined && !declared) return builtin(cx, name, callee.span, e, scope);
  const target = cx.expr(callee, scope);
  if (target.k === "error") {
    for (const a of e.args) cx.expr(a.value, scope);
    return errorValue;
  }
  if (target.k === "function") {
    const values = e.args.map((a) => hostExpr(cx, a.value, scope));
    const good = values.filter((v) => v !== undefined);
    if (good.length < values.length) return errorValue;
    const origins = e.args.map((a) => originOf(a.value, scope));
    return functionCall(cx, target.fn, e.args, good, e.span, origins);
  }
  if (target.k === "instance" || target.k === "forward") {
    const args = e.args.map((a) => ({ value: cx.expr(a.value, scope), e: a.value, span: a.value.span, name: a.name?.name }));
    const forwards = target.instance.entity.item.members.filter((m) => m.kind === "forward");
    const forward = target.k === "forward" ? target.forward : forwards.find((f) => f.name.name === "forward");
    if (forward === undefined) {
      cx.report.error("UHD0107", callee.span, `the module ${target.instance.entity.item.name.name} has no forward`, {
        notes: [{ span: target.instance.entity.item.name.span, message: "it is declared here" }],
      });
      return errorValue;
    }
    return cx.callInstance(target.instance, forward, args, e.span);
  }
  cx.report.error("UHD0107", callee.span, `${kindText(target)} cannot be called`, {
    help:
      target.k === "module"
        ? `make an instance first: use layer = ${target.entity.item.name.name}(…)`
        : target.k === "instances"
          ? "choose one: name[i](…)"
          : undefined,
  });
  return errorValue;
}

function builtin(cx: Cx, name: string, nameSpan: Span, e: Extract<Expr, { kind: "call" }>, scope: Scope): Value {
  const ragged = raggedCall(cx, name, e, scope);
  if (ragged !== undefined) return ragged;
  if (!isBuiltin(name) && !isOpName(name)) {
    for (const a of e.args) cx.expr(a.value, scope);
    const near = closest(name, [...scope.all(), ...opNames, ...builtinNames(scope)]);
    cx.report.error(
      "UHD0104",
      nameSpan,
      `there is no function, module or operation named ${name}`,
      suggestion(name, near, near === undefined ? undefined : scope.declaration(near)),
    );
    return errorValue;
  }
  if (!isBuiltin(name) && scope.hostOnly) {
    cx.report.error("UHD0107", nameSpan, `${name} is an operation on tensors, which shape code cannot use`);
    return errorValue;
  }
  const opInGraph = isOpName(name) && !scope.hostOnly;
  const args = e.args.map((a) => ({ arg: a, value: dtypeName(a.value, opInGraph) ?? cx.expr(a.value, scope) }));
  if (args.some((a) => a.value.k === "error")) return errorValue;
  if (isBuiltin(name) && args.every((a) => a.value.k === "host") && !(opInGraph && args.some((a) => a.arg.name !== undefined))) {
    return builtinCall(
      cx,
      name,
      e.args,
      args.map((a) => a.value).filter((v) => v.k === "host"),
      e.span,
    );
  }
  if (!isOpName(name)) {
    const tensor = args.find((a) => a.value.k !== "host");
    cx.report.error("UHD0107", tensor?.arg.value.span ?? e.span, `${name} is a function of shape code and takes no tensors`);
    return errorValue;
  }
  return opCall(
    cx,
    name,
    args.map((a) => ({ value: a.value, span: a.arg.value.span, name: a.arg.name })),
    e.span,
    nameSpan,
  );
}

function builtinNames(scope: Scope): readonly string[] {
  return scope.hostOnly ? builtinList : [...builtinList, "offsets", "segment", "lengths"];
}

const builtinList: readonly string[] = Object.keys(hostBuiltins);

/** `f32` among the arguments of an operation is the element type's name. */
function dtypeName(e: Expr, inOp: boolean): Value | undefined {
  return inOp && e.kind === "name" && isDType(e.name) ? knownValue(string, e.name) : undefined;
}
