// Expressions of Imp IR as text. Types are written only where they are not what operands, buffers and locals say.
//
// `4` is an i32 constant, `4.0` an f32 one, `f32x4#0.5` four of them, `{T}` a size, `&x[i]` a position in x,
// `load(p, 4)` one element four after p, `load4(p)` a vector, `f32(e)` a conversion.

import type { DType } from "../dtype.ts";
import { binaryText, constantText } from "../operators.ts";
import { nameText, numberText } from "../text.ts";
import { binaryGives, isPtr, isVector, laneOf, loadedType, typeOfImp, vectorOf } from "./build.ts";
import type { ImpExpr, ImpFunction, ImpType } from "./types.ts";

/** `f32x4`, or `&x` for a pointer into x. */
export function typeText(type: ImpType): string {
  return isPtr(type) ? `&${nameText(type.slice(4))}` : type;
}

/** What a vector of such elements has for lanes' types; pointers have none, and stay what they are. */
function wide(type: ImpType): ImpType {
  return isPtr(type) ? type : vectorOf(type);
}

function narrow(type: ImpType): "f32" | "i32" {
  return isPtr(type) ? "i32" : laneOf(type);
}

/** What names have for types without further words: places by their dtype, locals as declared last, all else i32. */
export class Declared {
  readonly #places: ReadonlyMap<string, DType>;
  readonly #locals = new Map<string, ImpType>();

  constructor(fn: Pick<ImpFunction, "buffers" | "scratch">) {
    this.#places = new Map([...fn.buffers, ...fn.scratch].map((p) => [p.name, p.dtype]));
  }

  local(name: string, type: ImpType): void {
    this.#locals.set(name, type);
  }

  /** The type of one element that a pointer points at. */
  #element(ptr: ImpExpr): "f32" | "i32" {
    const type = typeOfImp(ptr);
    return loadedType(this.#places.get(isPtr(type) ? type.slice(4) : "") ?? "f32");
  }

  /** The type of `e` when nothing is said about it. Loads are told apart by how they are written. */
  typeOf(e: ImpExpr): ImpType {
    switch (e.k) {
      case "const":
      case "convert":
        return e.type;
      case "dim":
        return "i32";
      case "var":
        return this.#locals.get(e.name) ?? "i32";
      case "at":
        return `ptr:${e.buffer}`;
      case "advance":
        return typeOfImp(e.ptr);
      case "load":
        return isVector(e.type) ? vectorOf(this.#element(e.ptr)) : this.#element(e.ptr);
      case "loadSplat":
        return vectorOf(this.#element(e.ptr));
      case "unary":
        return typeOfImp(e.a);
      case "binary":
        return binaryGives(e.op, typeOfImp(e.a));
      case "fma":
        return typeOfImp(e.c);
      case "fastMinMax":
      case "select":
      case "shuffle":
        return typeOfImp(e.a);
      case "bitcast":
        return otherOf(typeOfImp(e.a));
      case "splat":
        return wide(typeOfImp(e.a));
      case "halves":
        return "i32x4";
      case "lane":
      case "across":
        return narrow(typeOfImp(e.a));
      default:
        return e satisfies never;
    }
  }
}

/** What the same bits are as the other kind of number. */
export function otherOf(type: ImpType): ImpType {
  switch (type) {
    case "f32":
      return "i32";
    case "i32":
      return "f32";
    case "f32x4":
      return "i32x4";
    case "i32x4":
      return "f32x4";
    default:
      return type;
  }
}

function constText(type: ImpType, value: number | readonly number[]): string {
  if (typeof value !== "number") return `${typeText(type)}#[${value.map(numberText).join(", ")}]`;
  return constantText(typeText(type), value);
}

/** The text of `e` where operators of `level` and above may stand without parentheses. */
export function exprText(e: ImpExpr, declared: Declared, level = 0): string {
  const type = typeOfImp(e);
  return declared.typeOf(e) === type ? plain(e, declared, level) : `(${plain(e, declared, 0)}):${typeText(type)}`;
}

function plain(e: ImpExpr, declared: Declared, level: number): string {
  const text = (part: ImpExpr): string => exprText(part, declared);
  const offset = (n: number): string => (n === 0 ? "" : `, ${n}`);
  switch (e.k) {
    case "const":
      return constText(e.type, e.value);
    case "var":
      return nameText(e.name);
    case "dim":
      return `{${nameText(e.name)}}`;
    case "at":
      return `&${nameText(e.buffer)}[${text(e.index)}]`;
    case "advance":
      return `advance(${text(e.ptr)}, ${text(e.elements)})`;
    case "load":
      return `${isVector(e.type) ? "load4" : "load"}(${text(e.ptr)}${offset(e.offset)})`;
    case "loadSplat":
      return `loadSplat(${text(e.ptr)}${offset(e.offset)})`;
    case "unary":
      return `${e.op}(${text(e.a)})`;
    case "binary":
      return binaryText(e.op, e.a, e.b, level, (part, at) => exprText(part, declared, at));
    case "fma":
      return `fma(${text(e.a)}, ${text(e.b)}, ${text(e.c)})`;
    case "fastMinMax":
      return `${e.op === "min" ? "fastMin" : "fastMax"}(${text(e.a)}, ${text(e.b)})`;
    case "select":
      return `select(${text(e.cond)}, ${text(e.a)}, ${text(e.b)})`;
    case "convert":
      return isPtr(e.type) ? `convert(${typeText(e.type)}, ${text(e.a)})` : `${e.type}(${text(e.a)})`;
    case "bitcast":
      return `bitcast(${text(e.a)})`;
    case "splat":
      return `splat(${text(e.a)})`;
    case "lane":
      return `lane(${text(e.a)}, ${e.lane})`;
    case "shuffle":
      return `shuffle(${text(e.a)}, ${text(e.b)}, [${e.lanes.join(", ")}])`;
    case "halves":
      return `${e.op}(${e.args.map(text).join(", ")})`;
    case "across":
      return `across(${e.op}, ${text(e.a)})`;
    default:
      return e satisfies never;
  }
}
