// What must hold of a graph, checked after every pass. Collects every violation as a sentence; an empty list
// means the graph is sound. Does not check host code beyond the symbols it defines.

import { dimConstant, dimSymbols, shapeEqual, type Dim } from "../dim.ts";
import { typeText, type TypeRule } from "./build.ts";
import { attrText, nodeText } from "./print.ts";
import type { AttrValue, Graph, GraphNode, TensorType, ValueId } from "./types.ts";

function dimsIn(value: AttrValue): readonly Dim[] {
  if (typeof value !== "object") return [];
  if ("monomials" in value) return [value];
  return value.filter((v): v is Dim => typeof v === "object");
}

function typesEqual(a: TensorType, b: TensorType): boolean {
  return a.dtype === b.dtype && shapeEqual(a.shape, b.shape);
}

/**
 * Every violation in `graph`: ids repeat; an operand does not stand before its user; a type is not what the type rule
 * gives; a constant's data do not fill its shape; a parameter's shape has symbols; a symbol is not declared, or
 * neither a dimension of an input nor defined by host code; names repeat; outputs or updates name nothing.
 */
export function verifyGraph(graph: Graph, typeRule: TypeRule): string[] {
  const wrong: string[] = [];
  const types = new Map<ValueId, TensorType>();
  const declared = new Set(graph.symbols.map((s) => s.name));
  if (declared.size !== graph.symbols.length) wrong.push("a symbol is declared twice");
  const known = new Set([
    ...graph.host.bindings.filter((b) => b.symbol).map((b) => b.name),
    ...graph.symbols.filter((s) => s.argument === true).map((s) => s.name),
  ]);
  for (const node of graph.nodes) {
    if (node.kind !== "input" && node.kind !== "state") continue;
    for (const size of node.type.shape) if (dimSymbols(size).length === 1 && dimSymbols(size)[0] === size.text) known.add(size.text);
  }
  for (const s of graph.symbols) {
    if (s.upper !== undefined && s.upper < s.lower) wrong.push(`symbol ${s.name} has no values: ${s.lower}..${s.upper}`);
    if (!known.has(s.name)) wrong.push(`symbol ${s.name} is neither a dimension of an input nor defined by host code`);
  }
  const names = new Set<string>();
  for (const node of graph.nodes) {
    const at = (message: string): void => {
      wrong.push(`${nodeText(node)}: ${message}`);
    };
    if (types.has(node.id)) at("the id is used twice");
    if (!Number.isSafeInteger(node.id) || node.id < 0) at("the id is not a whole number");
    checkSymbols(node, declared, at);
    checkNode(node, types, typeRule, at);
    if ("name" in node) {
      const key = `${node.kind} ${node.name}`;
      if (names.has(key)) at(`there are two ${node.kind}s of this name`);
      names.add(key);
    }
    types.set(node.id, node.type);
  }
  const outputs = new Set<string>();
  for (const o of graph.outputs) {
    if (!types.has(o.value)) wrong.push(`output ${o.name}: there is no %${o.value}`);
    if (outputs.has(o.name)) wrong.push(`output ${o.name}: there are two of this name`);
    outputs.add(o.name);
  }
  for (const u of graph.updates) {
    const state = graph.nodes.find((n) => n.kind === "state" && n.name === u.state);
    const type = types.get(u.value);
    if (state === undefined) wrong.push(`update of ${u.state}: there is no such state`);
    else if (type === undefined) wrong.push(`update of ${u.state}: there is no %${u.value}`);
    else if (!typesEqual(type, state.type)) wrong.push(`update of ${u.state}: ${typeText(type)} is not ${typeText(state.type)}`);
  }
  if (new Set(graph.updates.map((u) => u.state)).size !== graph.updates.length) wrong.push("a state is updated twice");
  return wrong;
}

function checkSymbols(node: GraphNode, declared: ReadonlySet<string>, at: (message: string) => void): void {
  const missing = new Set<string>();
  const check = (d: Dim): void => {
    // Most sizes are numbers.
    if (dimConstant(d) !== undefined) return;
    for (const name of dimSymbols(d)) if (!declared.has(name)) missing.add(name);
  };
  for (const size of node.type.shape) check(size);
  if (node.kind === "op") for (const value of Object.values(node.attrs)) for (const d of dimsIn(value)) check(d);
  for (const name of missing) at(`symbol ${name} is not declared`);
  for (const size of node.type.shape) if ((dimConstant(size) ?? 0) < 0) at(`size ${size.text} is negative`);
}

function checkNode(node: GraphNode, types: ReadonlyMap<ValueId, TensorType>, typeRule: TypeRule, at: (message: string) => void): void {
  switch (node.kind) {
    case "input":
    case "state":
    case "table":
      return;
    case "param":
      if (node.type.shape.some((d) => dimConstant(d) === undefined)) at("a parameter's shape must be known at compile time");
      return;
    case "constant": {
      const sizes = node.type.shape.map(dimConstant);
      const count = sizes.reduce<number | undefined>((n, size) => (n === undefined || size === undefined ? undefined : n * size), 1);
      if (node.data.length !== 1 && node.data.length !== count) at(`${node.data.length} numbers do not fill the shape`);
      return;
    }
    case "op": {
      const operands = node.operands.map((v) => types.get(v));
      const missing = node.operands.filter((_, i) => operands[i] === undefined);
      if (missing.length > 0) {
        at(`${missing.map((v) => `%${v}`).join(", ")} does not stand before it`);
        return;
      }
      try {
        const type = typeRule(
          node.op,
          operands.filter((t) => t !== undefined),
          node.attrs,
        );
        if (!typesEqual(type, node.type)) at(`its type is ${typeText(type)} by the rule of ${node.op}`);
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        const attrs = Object.entries(node.attrs).map(([name, value]) => `${name}: ${attrText(value)}`);
        at(
          `${error.message} (operands ${operands.map((t) => (t === undefined ? "?" : typeText(t))).join(", ")}${attrs.length > 0 ? `; ${attrs.join(", ")}` : ""})`,
        );
      }
      return;
    }
    default:
      node satisfies never;
  }
}
