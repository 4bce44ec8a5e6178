// Imp IR to WebAssembly. One function a kernel, called as spec/artefact.md says: (args, begin, end, scratch). Each
// vector constant is loaded into a local at entry (inline constants in loops cost Node 24 a factor of 2.5), and
// locals are reused when their scope ends. Does not optimise: what the Imp says is what is executed.

import { bytesOf, type DType } from "../../ir/dtype.ts";
import { isVector, typeOfImp } from "../../ir/imp/build.ts";
import type { HalvesOp, ImpExpr, ImpFunction, ImpStmt, ImpType } from "../../ir/imp/types.ts";
import { Code, encodeModule, f32, i32, v128, type ValueType, type WasmFunction } from "./encoder.ts";
import { renderBinary, renderUnary } from "./arithmetic.ts";
import { libraryFunction, type LibraryName } from "./library.ts";
import { renderLoad, renderStore, renderWidened } from "./memory.ts";
import type { Keeper } from "./narrow.ts";
import { op, saturating, simd } from "./opcodes.ts";
import { dimRender } from "./sizes.ts";

export interface RenderOptions {
  /** Use relaxed SIMD's fused multiply-add. */
  readonly relaxed: boolean;
  /** The memory is shared between threads. */
  readonly shared: boolean;
}

/** Names of a block; what is not here may be in the block around it. */
class Scope {
  readonly #outer: Scope | undefined;
  readonly #own = new Map<string, Variable>();
  constructor(outer?: Scope) {
    this.#outer = outer;
  }
  get(name: string): Variable | undefined {
    return this.#own.get(name) ?? this.#outer?.get(name);
  }
  set(name: string, variable: Variable): void {
    this.#own.set(name, variable);
  }
}

export class RenderError extends Error {
  override readonly name = "RenderError";
}

/** A module with every function as an export of its name. */
export function renderWasm(fns: readonly ImpFunction[], options: RenderOptions): Uint8Array {
  const library = new Map<LibraryName, number>();
  const internal: WasmFunction[] = [];
  // Internal functions come last, so that a kernel's index is its place.
  const call = (name: LibraryName): number => {
    const known = library.get(name);
    if (known !== undefined) return known;
    internal.push(libraryFunction(name));
    library.set(name, fns.length + internal.length - 1);
    return fns.length + internal.length - 1;
  };
  const functions = fns.map((fn) => new Renderer(fn, options, call).function());
  return encodeModule([...functions, ...internal], options.shared);
}

const halvesInstruction: Readonly<Record<HalvesOp, number>> = {
  dot16: simd.i32x4_dot_i16x8_s,
  narrow16: simd.i16x8_narrow_i32x4_s,
  low_i8: simd.i16x8_extend_low_i8x16_s,
  high_i8: simd.i16x8_extend_high_i8x16_s,
  low_u8: simd.i16x8_extend_low_i8x16_u,
  high_u8: simd.i16x8_extend_high_i8x16_u,
};

function valueType(type: ImpType): ValueType {
  return type === "f32" ? f32 : type === "f32x4" || type === "i32x4" ? v128 : i32;
}

interface Variable {
  readonly local: number;
  readonly type: ImpType;
}

export class Renderer implements Keeper {
  readonly code = new Code(4);
  readonly options: RenderOptions;
  readonly call: (name: LibraryName) => number;
  private readonly fn: ImpFunction;
  private readonly prologue = new Code(4);
  private scope = new Scope();
  private readonly dtypes = new Map<string, DType>();
  private readonly bases = new Map<string, number>();
  private readonly dims = new Map<string, number>();
  private readonly constants = new Map<string, number>();
  private depth = 0;
  private loops: number[] = [];
  private temporaries = 0;
  /** Locals to release when the statement ends. */
  private pending: { local: number; type: ValueType }[] = [];

  constructor(fn: ImpFunction, options: RenderOptions, call: (name: LibraryName) => number) {
    this.fn = fn;
    this.options = options;
    this.call = call;
    if (fn.lanes !== 1) throw new RenderError(`${fn.name}: WebAssembly runs one lane a unit, the function has ${fn.lanes}`);
  }

  function(): WasmFunction {
    const { fn, code } = this;
    const start = this.prologue;
    fn.buffers.forEach((b, i) => {
      const local = code.local(i32);
      start
        .get(0)
        .memory(op.i32_load, 2, i * 4)
        .set(local);
      this.bases.set(b.name, local);
      this.dtypes.set(b.name, b.dtype);
    });
    fn.dims.forEach((d, i) => {
      const local = code.local(i32);
      start
        .get(0)
        .memory(op.i32_load, 2, (fn.buffers.length + i) * 4)
        .set(local);
      this.dims.set(d, local);
    });
    // Scratch blocks lie one after the other, each 16-aligned (see scratchBytes in sizes.ts).
    let before = -1;
    for (const s of fn.scratch) {
      const local = code.local(i32);
      if (before < 0) start.get(3).set(local);
      else start.get(before).set(local);
      const end = code.local(i32);
      start.get(local);
      dimRender(s.size, this.dims, start);
      start.i32(bytesOf(s.dtype)).op(op.i32_mul).op(op.i32_add).i32(15).op(op.i32_add).i32(-16).op(op.i32_and).set(end);
      before = end;
      this.bases.set(s.name, local);
      this.dtypes.set(s.name, s.dtype);
    }
    const unit = code.local(i32);
    this.scope.set(fn.unit, { local: unit, type: "i32" });
    code.get(1).set(unit);
    code.block();
    code.get(unit).get(2).op(op.i32_ge_s).brIf(0);
    code.loop();
    this.depth += 2;
    this.block(fn.body);
    code.get(unit).i32(1).op(op.i32_add).tee(unit).get(2).op(op.i32_lt_s).brIf(0);
    code.end().end();
    const whole = new Code(4);
    whole.bytes.all(start.bytes.done()).all(code.bytes.done());
    return { name: fn.name, params: [i32, i32, i32, i32], results: [], body: code.bodyWith(whole.bytes.done()) };
  }

  private block(body: readonly ImpStmt[]): void {
    const outer = this.scope;
    this.scope = new Scope(outer);
    const mine: Variable[] = [];
    for (const s of body) {
      const made = this.statement(s);
      if (made !== undefined) mine.push(made);
      for (const p of this.pending) this.code.release(p.local, p.type);
      this.pending = [];
    }
    for (const v of mine) this.code.release(v.local, valueType(v.type));
    this.scope = outer;
  }

  private variable(name: string): Variable {
    const found = this.scope.get(name);
    if (found === undefined) throw new RenderError(`${this.fn.name}: no variable ${name}`);
    return found;
  }

  private statement(s: ImpStmt): Variable | undefined {
    const { code } = this;
    switch (s.k) {
      case "let": {
        this.expr(s.value);
        const made = { local: code.local(valueType(s.type)), type: s.type };
        code.set(made.local);
        this.scope.set(s.name, made);
        return made;
      }
      case "assign":
        this.expr(s.value);
        code.set(this.variable(s.name).local);
        return undefined;
      case "store":
        renderStore(s.ptr, s.offset, s.value, 4, this);
        return undefined;
      case "storeLanes":
        renderStore(s.ptr, s.offset, s.value, s.count, this);
        return undefined;
      case "for":
        this.loop(s);
        return undefined;
      case "while":
        code.block().loop();
        this.depth += 2;
        this.expr(s.cond);
        code.op(op.i32_eqz).brIf(1);
        this.loops.push(this.depth - 1);
        this.block(s.body);
        this.loops.pop();
        code.br(0).end().end();
        this.depth -= 2;
        return undefined;
      case "if":
        this.expr(s.cond);
        code.if();
        this.depth++;
        this.block(s.then);
        if (s.else.length > 0) {
          code.else();
          this.block(s.else);
        }
        code.end();
        this.depth--;
        return undefined;
      case "barrier":
        // One lane a unit: there is nobody to wait for.
        return undefined;
      case "uniform":
      case "exchange":
        throw new RenderError(`${this.fn.name}: ${s.k} is for workgroups`);
      case "fence": {
        // Never taken: the pointer is not 0. It leads out of the loop, where the accumulators are used.
        const out = this.loops.at(-1);
        if (out === undefined) return undefined;
        code
          .get(this.variable(s.ptr).local)
          .op(op.i32_eqz)
          .brIf(this.depth - out);
        return undefined;
      }
      default:
        return s satisfies never;
    }
  }

  private loop(s: Extract<ImpStmt, { k: "for" }>): void {
    const { code } = this;
    const index = code.local(i32);
    this.expr(s.from);
    code.set(index);
    const constant = s.to.k === "const" && typeof s.to.value === "number" ? s.to.value : undefined;
    const end = constant === undefined ? code.local(i32) : undefined;
    if (end !== undefined) {
      this.expr(s.to);
      code.set(end);
    }
    const limit = (): void => void (end === undefined ? code.i32(constant ?? 0) : code.get(end));
    code.block();
    code.get(index);
    limit();
    code.op(op.i32_ge_s).brIf(0).loop();
    this.depth += 2;
    this.loops.push(this.depth - 1);
    const outer = this.scope;
    this.scope = new Scope(outer);
    this.scope.set(s.name, { local: index, type: "i32" });
    this.block(s.body);
    this.scope = outer;
    this.loops.pop();
    code.get(index).i32(s.step).op(op.i32_add).tee(index);
    limit();
    code.op(op.i32_lt_s).brIf(0).end().end();
    this.depth -= 2;
    code.release(index, i32);
    if (end !== undefined) code.release(end, i32);
  }

  /** Stores a value in a variable and gives the variable. */
  keep(value: ImpExpr): ImpExpr {
    this.expr(value);
    return this.kept(typeOfImp(value));
  }

  /** Stores what is on the stack in a variable and gives the variable. */
  kept(type: ImpType): ImpExpr {
    const name = this.fresh();
    this.take(name, type);
    return { k: "var", name, type };
  }

  fresh = (): string => `$${++this.temporaries}`;

  define(name: string, value: ImpExpr): void {
    this.expr(value);
    this.take(name, typeOfImp(value));
  }

  /** Stores what is on the stack under this name, until the statement ends. */
  private take(name: string, type: ImpType): void {
    const local = this.temporary(type);
    this.code.set(local);
    this.scope.set(name, { local, type });
  }

  /** A local that is released at the end of the statement. */
  temporary(type: ImpType): number {
    const t = valueType(type);
    const local = this.code.local(t);
    this.pending.push({ local, type: t });
    return local;
  }

  dtypeOf(ptr: ImpExpr): DType {
    const type = typeOfImp(ptr);
    const name = type.startsWith("ptr:") ? type.slice(4) : "";
    const found = this.dtypes.get(name);
    if (found === undefined) throw new RenderError(`${this.fn.name}: ${type} is not a pointer to a buffer`);
    return found;
  }

  /** Leaves the value on the stack. */
  expr(e: ImpExpr): void {
    const { code } = this;
    switch (e.k) {
      case "const":
        this.constant(e.type, e.value);
        return;
      case "var":
        code.get(this.variable(e.name).local);
        return;
      case "dim": {
        const local = this.dims.get(e.name);
        if (local === undefined) throw new RenderError(`${this.fn.name}: no size ${e.name}`);
        code.get(local);
        return;
      }
      case "at": {
        const base = this.bases.get(e.buffer);
        if (base === undefined) throw new RenderError(`${this.fn.name}: no buffer ${e.buffer}`);
        code.get(base);
        this.scaled(e.index, bytesOf(this.dtypeOf(e)));
        code.op(op.i32_add);
        return;
      }
      case "advance":
        this.expr(e.ptr);
        this.scaled(e.elements, bytesOf(this.dtypeOf(e)));
        code.op(op.i32_add);
        return;
      case "load":
      case "loadSplat":
        renderLoad(e, this);
        return;
      case "unary":
        renderUnary(e, this);
        return;
      case "binary":
        renderBinary(e, this);
        return;
      case "fma":
        if (isVector(e.type) && this.options.relaxed) {
          for (const x of [e.a, e.b, e.c]) this.expr(x);
          code.simd(simd.f32x4_relaxed_madd);
        } else {
          this.expr(e.a);
          this.expr(e.b);
          if (e.type === "f32x4") code.simd(simd.f32x4_mul);
          else if (e.type === "i32x4") code.simd(simd.i32x4_mul);
          else code.op(e.type === "f32" ? op.f32_mul : op.i32_mul);
          this.expr(e.c);
          if (e.type === "f32x4") code.simd(simd.f32x4_add);
          else if (e.type === "i32x4") code.simd(simd.i32x4_add);
          else code.op(e.type === "f32" ? op.f32_add : op.i32_add);
        }
        return;
      case "fastMinMax":
        if (e.type !== "f32x4") {
          renderBinary({ ...e, k: "binary" }, this);
          return;
        }
        this.expr(e.a);
        this.expr(e.b);
        code.simd(e.op === "min" ? simd.f32x4_pmin : simd.f32x4_pmax);
        return;
      case "select":
        this.select(e);
        return;
      case "convert":
        this.convert(e);
        return;
      case "bitcast":
        this.expr(e.a);
        if (e.type === "f32" && typeOfImp(e.a) !== "f32") code.op(op.f32_reinterpret_i32);
        else if (e.type === "i32" && typeOfImp(e.a) === "f32") code.op(op.i32_reinterpret_f32);
        return;
      case "splat":
        this.expr(e.a);
        code.simd(e.type === "f32x4" ? simd.f32x4_splat : simd.i32x4_splat);
        return;
      case "lane":
        this.expr(e.a);
        code.simd(e.type === "f32" ? simd.f32x4_extract_lane : simd.i32x4_extract_lane).bytes.byte(e.lane);
        return;
      case "shuffle":
        this.expr(e.a);
        this.expr(e.b);
        code.simd(simd.i8x16_shuffle);
        for (const lane of e.lanes) code.bytes.all([0, 1, 2, 3].map((b) => lane * 4 + b));
        return;
      case "halves":
        if (renderWidened(e, this)) return;
        for (const x of e.args) this.expr(x);
        code.simd(halvesInstruction[e.op]);
        return;
      case "across": {
        const all = this.keep(e.a);
        const lane = (n: number): ImpExpr => ({ k: "lane", a: all, lane: n, type: e.type });
        const pair = (a: ImpExpr, b: ImpExpr): ImpExpr => ({ k: "binary", op: e.op, a, b, type: e.type });
        this.expr(pair(pair(lane(0), lane(2)), pair(lane(1), lane(3))));
        return;
      }
      default:
        e satisfies never;
    }
  }

  /** index · bytes, as a shift. */
  private scaled(index: ImpExpr, bytes: number): void {
    if (index.k === "const" && typeof index.value === "number") {
      this.code.i32(index.value * bytes);
      return;
    }
    this.expr(index);
    if (bytes > 1) this.code.i32(Math.log2(bytes)).op(op.i32_shl);
  }

  private constant(type: ImpType, value: number | readonly number[]): void {
    const { code } = this;
    if (!isVector(type)) {
      const one = typeof value === "number" ? value : (value[0] ?? 0);
      if (type === "f32") code.f32(one);
      else code.i32(one);
      return;
    }
    const view = new DataView(new ArrayBuffer(16));
    for (let lane = 0; lane < 4; lane++) {
      const one = typeof value === "number" ? value : (value[lane] ?? 0);
      if (type === "f32x4") view.setFloat32(lane * 4, one, true);
      else view.setInt32(lane * 4, one, true);
    }
    const bytes = new Uint8Array(view.buffer);
    const key = bytes.join();
    let local = this.constants.get(key);
    if (local === undefined) {
      local = code.unused(v128);
      this.prologue.v128(bytes).set(local);
      this.constants.set(key, local);
    }
    code.get(local);
  }

  private select(e: Extract<ImpExpr, { k: "select" }>): void {
    const { code } = this;
    if (isVector(typeOfImp(e.cond))) {
      this.expr(e.a);
      this.expr(e.b);
      this.expr(e.cond);
      code.simd(simd.v128_bitselect);
      return;
    }
    const cheap = (x: ImpExpr): boolean => x.k === "const" || x.k === "var" || x.k === "dim";
    if (cheap(e.a) && cheap(e.b)) {
      this.expr(e.a);
      this.expr(e.b);
      this.expr(e.cond);
      if (isVector(e.type)) code.op(0x1c).op(1).op(v128);
      else code.op(op.select);
      return;
    }
    this.expr(e.cond);
    code.if(valueType(e.type));
    this.depth++;
    this.expr(e.a);
    code.else();
    this.expr(e.b);
    code.end();
    this.depth--;
  }

  private convert(e: Extract<ImpExpr, { k: "convert" }>): void {
    const { code } = this;
    const from = typeOfImp(e.a);
    this.expr(e.a);
    if (from === e.type) return;
    if (e.type === "f32x4") code.simd(simd.f32x4_convert_i32x4_s);
    else if (e.type === "i32x4") code.simd(simd.i32x4_trunc_sat_f32x4_s);
    else if (e.type === "f32") code.op(op.f32_convert_i32_s);
    else if (e.type === "bool") {
      if (from === "f32") code.f32(0).op(op.f32_ne);
      else code.i32(0).op(op.i32_ne);
    } else if (from === "f32") code.op(0xfc).op(saturating.i32_trunc_sat_f32_s);
  }
}
