// What must hold of Imp expressions: names are in scope, operations take their operands, types are what operands give.

import type { DType } from "../dtype.ts";
import { binaryGives, isPtr, isVector, laneOf, loadedType, typeOfImp, vectorOf } from "./build.ts";
import { otherOf, typeText } from "./expr-text.ts";
import { halvesOperands, impBinaryTakes, impUnaryTakes } from "./ops.ts";
import type { ImpExpr, ImpType } from "./types.ts";

/** A buffer or scratch, and what may be done with it. */
export interface Place {
  readonly dtype: DType;
  readonly read: boolean;
  readonly write: boolean;
}

/** May a value of this type be stored as elements of `dtype`? */
export function valueFits(type: ImpType, dtype: DType): boolean {
  if (isPtr(type)) return false;
  return type === "bool" ? dtype === "bool" : laneOf(type) === loadedType(dtype);
}

/** The parts of `e`, in the order of its fields. */
export function operandsOf(e: ImpExpr): readonly ImpExpr[] {
  switch (e.k) {
    case "const":
    case "var":
    case "dim":
      return [];
    case "at":
      return [e.index];
    case "advance":
      return [e.ptr, e.elements];
    case "load":
    case "loadSplat":
      return [e.ptr];
    case "unary":
    case "convert":
    case "bitcast":
    case "splat":
    case "lane":
    case "across":
      return [e.a];
    case "binary":
    case "fastMinMax":
    case "shuffle":
      return [e.a, e.b];
    case "fma":
      return [e.a, e.b, e.c];
    case "select":
      return [e.cond, e.a, e.b];
    case "halves":
      return e.args;
    default:
      return e satisfies never;
  }
}

type Report = (message: string) => void;

export class ExprChecker {
  readonly places: ReadonlyMap<string, Place>;
  readonly #dims: ReadonlySet<string>;

  constructor(places: ReadonlyMap<string, Place>, dims: ReadonlySet<string>) {
    this.places = places;
    this.#dims = dims;
  }

  /** Reports what is wrong with `e` and its parts; `local` gives the types of locals in scope. */
  check(e: ImpExpr, local: (name: string) => ImpType | undefined, report: Report): void {
    for (const part of operandsOf(e)) this.check(part, local, report);
    const fault = this.#fault(e, local);
    if (fault !== undefined) report(fault);
  }

  #fault(e: ImpExpr, local: (name: string) => ImpType | undefined): string | undefined {
    const type = typeOfImp(e);
    const is = (wanted: ImpType): string | undefined =>
      wanted === type ? undefined : `${e.k} has the type ${typeText(type)} instead of ${typeText(wanted)}`;
    const same = (parts: readonly ImpExpr[], types: readonly ImpType[], name: string = e.k): string | undefined => {
      const [first, ...rest] = parts.map(typeOfImp);
      if (first === undefined || rest.some((t) => t !== first) || !types.includes(first))
        return `${name} does not take ${parts.map((p) => typeText(typeOfImp(p))).join(", ")}`;
      return is(first);
    };
    switch (e.k) {
      case "const":
        return constantFault(e.type, e.value);
      case "var": {
        const known = local(e.name);
        if (known === undefined) return `${e.name} is not in scope`;
        return known === type ? undefined : `${e.name} is ${typeText(known)}, not ${typeText(type)}`;
      }
      case "dim":
        return this.#dims.has(e.name) ? undefined : `size ${e.name} is not declared`;
      case "at":
        if (!this.places.has(e.buffer)) return `there is no buffer or scratch ${e.buffer}`;
        return typeOfImp(e.index) === "i32" ? is(`ptr:${e.buffer}`) : `a position is ${typeText(typeOfImp(e.index))}, not i32`;
      case "advance": {
        const ptr = typeOfImp(e.ptr);
        if (!isPtr(ptr)) return `advance does not take ${ptr}`;
        return typeOfImp(e.elements) === "i32" ? is(ptr) : `advance goes by ${typeText(typeOfImp(e.elements))}, not i32`;
      }
      case "load":
      case "loadSplat":
        return this.#load(e);
      case "unary": {
        const a = typeOfImp(e.a);
        return impUnaryTakes(e.op, a) ? is(a) : `${e.op} does not take ${typeText(a)}`;
      }
      case "binary": {
        const [a, b] = [typeOfImp(e.a), typeOfImp(e.b)];
        if (a !== b) return `${e.op} takes two operands of one type, not ${typeText(a)} and ${typeText(b)}`;
        if (!impBinaryTakes(e.op, a)) return `${e.op} does not take ${typeText(a)}`;
        return is(binaryGives(e.op, a));
      }
      case "fma":
        return same([e.a, e.b, e.c], ["f32", "f32x4"]);
      case "fastMinMax":
        return same([e.a, e.b], ["f32", "f32x4"]);
      case "shuffle":
        if (e.lanes.some((lane) => ![0, 1, 2, 3, 4, 5, 6, 7].includes(lane))) return `shuffle has no lanes ${e.lanes.join(", ")}`;
        return same([e.a, e.b], ["f32x4", "i32x4"]);
      case "select": {
        const [cond, a, b] = [typeOfImp(e.cond), typeOfImp(e.a), typeOfImp(e.b)];
        if (a !== b) return `the sides of a select are ${typeText(a)} and ${typeText(b)}`;
        if (cond !== "bool" && !(cond === "i32x4" && isVector(a)))
          return `the condition of a select of ${typeText(a)} is ${typeText(cond)}`;
        return is(a);
      }
      case "convert": {
        const a = typeOfImp(e.a);
        const fits = !isPtr(a) && !isPtr(type) && isVector(a) === isVector(type) && a !== type;
        return fits ? undefined : `no conversion from ${typeText(a)} to ${typeText(type)}`;
      }
      case "bitcast": {
        const other = otherOf(typeOfImp(e.a));
        return other === typeOfImp(e.a) ? `bitcast does not take ${typeText(other)}` : is(other);
      }
      case "splat": {
        const a = typeOfImp(e.a);
        return a === "f32" || a === "i32" ? is(vectorOf(a)) : `splat does not take ${typeText(a)}`;
      }
      case "halves":
        if (e.args.length !== halvesOperands[e.op]) return `${e.op} takes ${halvesOperands[e.op]} operands, not ${e.args.length}`;
        return same(e.args, ["i32x4"], e.op);
      case "lane":
      case "across": {
        const a = typeOfImp(e.a);
        if (!isVector(a)) return `${e.k} does not take ${typeText(a)}`;
        if (e.k === "lane" && ![0, 1, 2, 3].includes(e.lane)) return `there is no lane ${e.lane}`;
        return is(laneOf(a));
      }
      default:
        return e satisfies never;
    }
  }

  #load(e: Extract<ImpExpr, { k: "load" | "loadSplat" }>): string | undefined {
    const ptr = typeOfImp(e.ptr);
    if (!isPtr(ptr)) return `${e.k} does not take ${ptr}`;
    const name = ptr.slice(4);
    const place = this.places.get(name);
    if (place === undefined) return `there is no buffer or scratch ${name}`;
    if (!place.read) return `${name} is for writing`;
    if (!Number.isSafeInteger(e.offset)) return `${e.offset} is no offset`;
    const element = loadedType(place.dtype);
    const types: readonly ImpType[] = e.k === "load" ? [element, vectorOf(element)] : [vectorOf(element)];
    return types.includes(e.type) ? undefined : `${e.k} of ${place.dtype} gives ${types.join(" or ")}, not ${typeText(e.type)}`;
  }
}

function constantFault(type: ImpType, value: number | readonly number[]): string | undefined {
  if (isPtr(type)) return "a pointer is no constant";
  const all = typeof value === "number" ? [value] : value;
  if (typeof value !== "number" && (!isVector(type) || value.length !== 4)) return `${value.length} numbers are no ${type}`;
  const fits = (x: number): boolean => {
    if (type === "bool") return x === 0 || x === 1;
    return laneOf(type) === "f32" ? Object.is(Math.fround(x), x) : x === (x | 0) && !Object.is(x, -0);
  };
  const bad = all.find((x) => !fits(x));
  return bad === undefined ? undefined : `${bad} is no ${type}`;
}
