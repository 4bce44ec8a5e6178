// What a value is, where it comes from, and which of them shape code takes.

import type { Span } from "../ir/loc.ts";
import type { Expr } from "../syntax/ast.ts";
import type { Cx, HostVal, Scope, Value } from "./context.ts";
import { hostTypeText } from "./types.ts";

/** A value that is expected to be of the host. */
export function hostExpr(cx: Cx, e: Expr, scope: Scope): HostVal | undefined {
  const v = cx.expr(e, scope);
  return asHost(cx, v, e.span);
}

export function asHost(cx: Cx, v: Value, span: Span): HostVal | undefined {
  if (v.k === "host") return v.type.k === "error" ? undefined : v;
  if (v.k !== "error")
    cx.report.error("UHD0107", span, `${kindText(v)} cannot be used in shape code`, {
      expected: "an int, float, bool, string, list, tuple or record",
      found: kindText(v),
    });
  return undefined;
}

export function kindText(v: Value): string {
  switch (v.k) {
    case "host":
      return hostTypeText(v.type);
    case "tensor":
      return "a tensor";
    case "instance":
      return `the module ${v.instance.entity.item.name.name}`;
    case "instances":
      return "an array of modules";
    case "tuple":
      return "a tuple of tensors";
    case "function":
      return `the function ${v.fn.item.name.name}`;
    case "module":
      return `the module ${v.entity.item.name.name}`;
    case "forward":
      return `${v.instance.entity.item.name.name}.${v.forward.name.name}`;
    case "error":
      return "an error";
    default:
      return v satisfies never;
  }
}

/** Where the value of a name comes from, for notes of mistakes that it causes. */
export function originOf(e: Expr, scope: Scope): readonly { span: Span; message: string }[] {
  let root = e;
  while (root.kind === "field" || root.kind === "subscript") root = root.of;
  const from = root.kind === "name" ? scope.find(root.name)?.from : undefined;
  return root.kind !== "name" || from === undefined ? [] : [{ span: from, message: `${root.name} comes from here` }];
}
