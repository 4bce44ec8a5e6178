// A parameter whose rows are looked up and that is multiplied by too (the embeddings of a model whose head is tied to them)
// would be on the device twice: as it is stored, and in the panels of the product. Kernels that look rows up read the panels
// instead, at other places; the parameter itself then goes when the panels are made. Does not change what is computed.
//
// Note [Rows of panels]. Element (n, k) of the parameter is element ((n / panel)·K + k)·panel + n mod panel of its panels.
// A row is then as many loads as features, and not a quarter: looking up SmolLM2's 576 takes a microsecond more, while a
// token's product by all 49152 rows takes milliseconds. So only readers that look a few rows up do this (the row's number is
// itself read from memory), and all readers of runs must, or the parameter would have to stay.

import { dim, type Dim, type DimSymbol } from "../ir/dim.ts";
import type { Graph, ValueId } from "../ir/graph/types.ts";
import { add, binary, i32, mapOperands, mul, operandsOf, variable } from "../ir/kernel/build.ts";
import { Simplifier } from "../ir/kernel/simplify.ts";
import type { Expr, Kernel, KernelBuffer, Stage } from "../ir/kernel/types.ts";
import { linearIndex } from "../../ops/expr.ts";
import { bufferOf, nodeOf, type Values } from "../fuse/expand.ts";
import type { Grouping } from "../fuse/groups.ts";
import { packedType } from "../fuse/kernels.ts";
import type { TemplatedKernel } from "../fuse/templates.ts";

/** The panels of a parameter's rows. */
interface Panels {
  /** The product that reads them. */
  readonly of: ValueId;
  /** Of the parameter: rows and features. */
  readonly shape: readonly Dim[];
  readonly panel: number;
  readonly buffer: Pick<KernelBuffer, "dtype" | "shape">;
}

/** The kernels, those of runs with panels as operands in place of parameters that they look up rows of. */
export function shareTables(graph: Graph, { values, fixed }: Grouping, built: readonly TemplatedKernel[]): readonly TemplatedKernel[] {
  const panels = new Map(built.flatMap((b) => (b.group.packs !== undefined && fixed.has(b.group.root) ? panelsOf(values, b) : [])));
  // What a run hands out, or keeps as a state, is copied as it is.
  for (const v of [...graph.outputs, ...graph.updates]) panels.delete(bufferOf(values, v.value));
  const rewritten = new Map<TemplatedKernel, TemplatedKernel>();
  for (const [param, own] of panels) {
    const readers = built.filter((b) => !fixed.has(b.group.root) && b.operands.some((o) => o.k === "value" && o.id === param));
    const made = readers.map((b) => withPanels(rewritten.get(b) ?? b, param, own, graph.symbols));
    if (made.some((m) => m === undefined)) continue;
    for (const [i, b] of readers.entries()) rewritten.set(b, made[i] ?? b);
  }
  return built.map((b) => rewritten.get(b) ?? b);
}

/** The parameter of which a pack kernel lays out the rows, if that is all it does. */
function panelsOf(values: Values, { kernel, operands, group }: TemplatedKernel): readonly (readonly [ValueId, Panels])[] {
  const [stage] = kernel.stages;
  const [p] = kernel.axes;
  if (group.packs === undefined || stage?.k !== "store" || p === undefined || kernel.axes.length !== 1 || kernel.stages.length !== 1)
    return [];
  const [k, j] = stage.axes;
  // Behind the last row are zeros.
  const element = stage.value.k === "select" ? stage.value.a : stage.value;
  if (element.k !== "load" || k === undefined || j === undefined) return [];
  const operand = operands[kernel.buffers.findIndex((b) => b.name === element.buffer)];
  const node = operand?.k === "value" ? nodeOf(values, operand.id) : undefined;
  const type = packedType(values, group.packs);
  if (node?.kind !== "param" || node.type.shape.length !== 2 || node.type.dtype !== type.dtype) return [];
  const simplifier = new Simplifier(values.symbols);
  for (const a of [p, k, j]) simplifier.axis(a.name, a.extent);
  const [row, feature] = simplifier.split(element.index, node.type.shape);
  const rows = simplifier.simplify(add(mul(variable(p.name), i32(values.panel)), variable(j.name)));
  if (row !== rows || feature !== simplifier.simplify(variable(k.name))) return [];
  return [[node.id, { of: group.packs, shape: node.type.shape, panel: values.panel, buffer: type }]];
}

/** The kernel with the panels in place of the parameter; undefined where it does more with it than look up rows. */
function withPanels(b: TemplatedKernel, param: ValueId, panels: Panels, symbols: readonly DimSymbol[]): TemplatedKernel | undefined {
  const at = b.operands.findIndex((o) => o.k === "value" && o.id === param);
  const buffer = b.kernel.buffers[at];
  if (buffer?.access !== "read" || b.group.packs !== undefined || multiplies(b.kernel, buffer.name)) return undefined;
  const stages = lookedUp(b.kernel, buffer.name, panels, symbols);
  if (stages === undefined) return undefined;
  const { dtype, shape } = panels.buffer;
  return {
    ...b,
    kernel: { ...b.kernel, buffers: b.kernel.buffers.with(at, { ...buffer, dtype, shape }), stages },
    operands: b.operands.with(at, { k: "pack", of: panels.of }),
    template: {},
  };
}

/** The kernel's stages, with `buffer` read as panels; undefined where an element is not one of a row that is looked up. */
function lookedUp(
  kernel: Kernel,
  buffer: string,
  { shape, panel, buffer: packed }: Panels,
  symbols: readonly DimSymbol[],
): readonly Stage[] | undefined {
  const simplifier = new Simplifier(symbols);
  const extents = new Map<string, string>();
  let known = true;
  const axis = (name: string, extent: Dim): void => {
    if ((extents.get(name) ?? extent.text) !== extent.text) known = false;
    extents.set(name, extent.text);
    simplifier.axis(name, extent);
  };
  for (const a of kernel.axes) axis(a.name, a.extent);
  for (const s of kernel.stages) if (s.k === "store") for (const a of s.axes) axis(a.name, a.extent);
  const folds = new Set<Expr>();
  const declare = (e: Expr): void => {
    if (folds.has(e)) return;
    folds.add(e);
    if (e.k === "fold" && e.from.k === "const" && e.from.value === 0) {
      if (e.to.k === "dim") axis(e.axis, e.to.dim);
      if (e.to.k === "const") axis(e.axis, dim(e.to.value));
    }
    for (const part of operandsOf(e)) declare(part);
  };
  for (const s of kernel.stages) declare(s.value);
  const done = new Map<Expr, Expr>();
  const read = (e: Expr): Expr => {
    const before = done.get(e);
    if (before !== undefined) return before;
    let made = mapOperands(e, read);
    if (made.k === "load" && made.buffer === buffer) {
      const [row, feature] = simplifier.split(made.index, shape);
      if (row === undefined || feature === undefined || !has(row, (part) => part.k === "load")) known = false;
      else {
        const place = linearIndex([binary("div", row, i32(panel)), feature, binary("mod", row, i32(panel))], packed.shape);
        made = { ...made, index: simplifier.simplify(place) };
      }
    }
    done.set(e, made);
    return made;
  };
  const stages = kernel.stages.map((s): Stage =>
    s.k === "let" ? { ...s, value: read(s.value) } : { ...s, value: read(s.value), index: read(s.index) },
  );
  return known ? stages : undefined;
}

/** Does a builder read the buffer by itself, where the pattern says it is? */
function multiplies({ pattern }: Kernel, buffer: string): boolean {
  if (pattern === undefined) return false;
  if (pattern.k === "attention") return true;
  const others = pattern.k === "matmul" ? [] : [pattern.values, pattern.scales, pattern.minima];
  const loads = pattern.k === "matmul" ? [pattern.a, pattern.b] : [pattern.a];
  return others.includes(buffer) || loads.some((l) => has(l, (e) => e.k === "load" && e.buffer === buffer));
}

/** Is there such a part in it? */
function has(e: Expr, is: (part: Expr) => boolean): boolean {
  return is(e) || operandsOf(e).some((part) => has(part, is));
}
