// Brackets behind a tensor: positions, ranges and rows, as slices and gathers of the graph.

import { dim, dimAdd, dimConstant, dimSub, type Dim } from "../ir/dim.ts";
import { typeText } from "../ir/graph/build.ts";
import type { TensorType } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { Subscript } from "../syntax/ast.ts";
import { constantOf, sizeOf } from "./constants.ts";
import { errorValue, type Cx, type Scope, type TensorVal, type Value } from "./context.ts";
import { emit, graphOf } from "./tensor.ts";

/** `x[a:b, i, :]`. */
export function subscriptTensor(cx: Cx, x: TensorVal, at: readonly Subscript[], span: Span, xSpan: Span, scope: Scope): Value {
  const build = graphOf(cx);
  const rank = build.builder.typeOf(x.id).shape.length;
  if (at.length > rank) {
    cx.report.error("UHD0311", span, `${at.length} places in brackets, but the tensor has ${rank} dimension${rank === 1 ? "" : "s"}`, {
      found: typeText(build.builder.typeOf(x.id)),
    });
    return errorValue;
  }
  let value: TensorVal = x;
  const dropped: number[] = [];
  for (const [axis, s] of at.entries()) {
    const size = build.builder.typeOf(value.id).shape[axis] ?? dim(1);
    const next =
      s.kind === "index" ? indexAxis(cx, value, axis, s, size, at.length, xSpan, scope) : sliceAxis(cx, value, axis, s, size, xSpan, scope);
    if (next.k !== "tensor") return errorValue;
    if (s.kind === "index") {
      const type: TensorType = build.builder.typeOf(next.id);
      if (type.shape.length !== rank || dimConstant(type.shape[axis] ?? dim(0)) !== 1) return next;
      dropped.push(axis);
    }
    value = next;
  }
  if (dropped.length === 0) return value;
  const shape = build.builder.typeOf(value.id).shape.filter((_, i) => !dropped.includes(i));
  return emit(cx, "reshape", [{ id: value.id, span: xSpan }], { shape }, span);
}

/** A position counted from the end where it is a negative constant. */
function position(cx: Cx, v: Value, span: Span, size: Dim): Dim | undefined {
  if (v.k !== "host") {
    if (v.k !== "error") cx.report.error("UHD0311", span, "a position is an integer", { expected: "int" });
    return undefined;
  }
  const d = sizeOf(cx, v, span, "at");
  const c = d === undefined ? undefined : dimConstant(d);
  return c !== undefined && c < 0 ? dimAdd(size, dim(c)) : d;
}

function indexAxis(
  cx: Cx,
  x: TensorVal,
  axis: number,
  s: Extract<Subscript, { kind: "index" }>,
  size: Dim,
  places: number,
  xSpan: Span,
  scope: Scope,
): Value {
  const v = cx.expr(s.value, scope);
  if (v.k === "tensor" && axis === 0 && places === 1)
    return emit(
      cx,
      "gather",
      [
        { id: x.id, span: xSpan },
        { id: v.id, span: s.span },
      ],
      {},
      s.span,
    );
  if (v.k === "tensor") {
    cx.report.error("UHD0311", s.span, "a tensor as index stands alone", { expected: "x[index], rows of the first dimension" });
    return errorValue;
  }
  const at = position(cx, v, s.value.span, size);
  if (at === undefined) return errorValue;
  return emit(cx, "slice", [{ id: x.id, span: xSpan }], { axis, start: at, stop: dimAdd(at, dim(1)), step: 1 }, s.span);
}

function sliceAxis(
  cx: Cx,
  x: TensorVal,
  axis: number,
  s: Extract<Subscript, { kind: "slice" }>,
  size: Dim,
  xSpan: Span,
  scope: Scope,
): Value {
  if (s.from === undefined && s.to === undefined && s.step === undefined) return x;
  const start = s.from === undefined ? dim(0) : position(cx, cx.expr(s.from, scope), s.from.span, size);
  const stop = s.to === undefined ? size : position(cx, cx.expr(s.to, scope), s.to.span, size);
  let step = 1;
  if (s.step !== undefined) {
    const v = cx.expr(s.step, scope);
    const { span } = s.step;
    const wrong = (): void => cx.report.error("UHD0311", span, "a step is an integer known at compile time", { expected: "int" });
    if (v.k !== "host" || v.type.k !== "int") {
      if (v.k !== "error") wrong();
      return errorValue;
    }
    const known = constantOf(cx, v, span, wrong);
    if (typeof known !== "number") return errorValue;
    step = known;
  }
  if (start === undefined || stop === undefined) return errorValue;
  if (step === 1 && dimSub(stop, start).text === size.text && dimConstant(start) === 0) return x;
  return emit(cx, "slice", [{ id: x.id, span: xSpan }], { axis, start, stop, step }, s.span);
}
