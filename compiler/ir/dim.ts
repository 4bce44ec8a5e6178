// Symbolic dimensions: integer polynomials over named sizes, with floor division, remainder, minimum
// and maximum as opaque atoms. A Dim is always in canonical form, so two dims are provably equal
// exactly when their texts are the same. Does not solve equations (the checker's unifier does).

/** One indivisible factor of a monomial. */
export type Atom =
  { readonly kind: "symbol"; readonly name: string } | { readonly kind: "div" | "mod" | "min" | "max"; readonly a: Dim; readonly b: Dim };

/** coefficient · product of atoms; atoms are sorted by their text and may repeat (powers). */
export interface Monomial {
  readonly coefficient: number;
  readonly atoms: readonly Atom[];
}

/** A sum of monomials in canonical order. The empty sum is 0. `text` is the canonical form. */
export interface Dim {
  readonly monomials: readonly Monomial[];
  readonly text: string;
}

/** A named size with inclusive bounds; `upper` is undefined where nothing is known. */
export interface DimSymbol {
  readonly name: string;
  readonly lower: number;
  readonly upper?: number;
  /** An integer that the caller gives at each run, by this name. All others are sizes of inputs or made by shape code. */
  readonly argument?: true;
}

export class DimError extends Error {
  override readonly name = "DimError";
}

function atomText(atom: Atom): string {
  return atom.kind === "symbol" ? atom.name : `${atom.kind}(${atom.a.text}, ${atom.b.text})`;
}

function atomsKey(atoms: readonly Atom[]): string {
  return atoms.map(atomText).join("*");
}

function monomialText(m: Monomial): string {
  if (m.atoms.length === 0) return String(m.coefficient);
  const atoms = atomsKey(m.atoms);
  return m.coefficient === 1 ? atoms : m.coefficient === -1 ? `-${atoms}` : `${m.coefficient}*${atoms}`;
}

function canonical(monomials: readonly Monomial[]): Dim {
  const byKey = new Map<string, Monomial>();
  for (const m of monomials) {
    const key = atomsKey(m.atoms);
    const seen = byKey.get(key);
    byKey.set(key, { coefficient: (seen?.coefficient ?? 0) + m.coefficient, atoms: m.atoms });
  }
  // Higher degree first, then by text, constant last: `h*w + 2*T + 1`.
  const kept = [...byKey.entries()]
    .filter(([, m]) => m.coefficient !== 0)
    .sort(([ka, a], [kb, b]) => b.atoms.length - a.atoms.length || (ka < kb ? -1 : ka > kb ? 1 : 0))
    .map(([, m]) => m);
  for (const m of kept) {
    if (!Number.isSafeInteger(m.coefficient)) throw new DimError(`dimension coefficient ${m.coefficient} is not a safe integer`);
  }
  let text = "";
  for (const [i, m] of kept.entries()) {
    const one = monomialText(m);
    if (i === 0) text = one;
    else text += one.startsWith("-") ? ` - ${one.slice(1)}` : ` + ${one}`;
  }
  return { monomials: kept, text: text === "" ? "0" : text };
}

const small = new Map<number, Dim>();

/** The constant `value`, which must be a safe integer. */
export function dim(value: number): Dim {
  const known = small.get(value);
  if (known !== undefined) return known;
  const made = canonical([{ coefficient: value, atoms: [] }]);
  if (value >= -4096 && value <= 4096) small.set(value, made);
  return made;
}

export function dimSymbol(name: string): Dim {
  return canonical([{ coefficient: 1, atoms: [{ kind: "symbol", name }] }]);
}

export function dimAdd(a: Dim, b: Dim): Dim {
  if (a.monomials.length === 0) return b;
  if (b.monomials.length === 0) return a;
  const [x, y] = [dimConstant(a), dimConstant(b)];
  if (x !== undefined && y !== undefined) return dim(x + y);
  return canonical([...a.monomials, ...b.monomials]);
}

export function dimSub(a: Dim, b: Dim): Dim {
  return canonical([...a.monomials, ...b.monomials.map((m) => ({ coefficient: -m.coefficient, atoms: m.atoms }))]);
}

export function dimMul(a: Dim, b: Dim): Dim {
  const [x, y] = [dimConstant(a), dimConstant(b)];
  if (x !== undefined && y !== undefined) return dim(x * y);
  if (x === 1) return b;
  if (y === 1) return a;
  const out: Monomial[] = [];
  for (const x of a.monomials) {
    for (const y of b.monomials) {
      const atoms = [...x.atoms, ...y.atoms].sort((p, q) => {
        const tp = atomText(p);
        const tq = atomText(q);
        return tp < tq ? -1 : tp > tq ? 1 : 0;
      });
      out.push({ coefficient: x.coefficient * y.coefficient, atoms });
    }
  }
  return canonical(out);
}

/** The exact quotient when every monomial of `a` divides by the single monomial `b`; undefined otherwise. */
export function dimExactDiv(a: Dim, b: Dim): Dim | undefined {
  const [x, y] = [dimConstant(a), dimConstant(b)];
  if (x !== undefined && y !== undefined && y !== 0) return x % y === 0 ? dim(x / y) : undefined;
  const by = b.monomials[0];
  if (by === undefined || b.monomials.length !== 1) return a.text === b.text && by !== undefined ? dim(1) : undefined;
  const out: Monomial[] = [];
  for (const m of a.monomials) {
    if (m.coefficient % by.coefficient !== 0) return undefined;
    const rest = [...m.atoms];
    for (const atom of by.atoms) {
      const at = rest.findIndex((r) => atomText(r) === atomText(atom));
      if (at < 0) return undefined;
      rest.splice(at, 1);
    }
    out.push({ coefficient: m.coefficient / by.coefficient, atoms: rest });
  }
  return canonical(out);
}

function binaryAtom(kind: "div" | "mod" | "min" | "max", a: Dim, b: Dim): Dim {
  return canonical([{ coefficient: 1, atoms: [{ kind, a, b }] }]);
}

/** Floor division. Folds constants and exact quotients. */
export function dimDiv(a: Dim, b: Dim): Dim {
  const ca = dimConstant(a);
  const cb = dimConstant(b);
  if (cb === 0) throw new DimError(`dimension ${a.text} divided by zero`);
  if (ca !== undefined && cb !== undefined) return dim(Math.floor(ca / cb));
  return dimExactDiv(a, b) ?? binaryAtom("div", a, b);
}

/** Floor remainder: `a - b*floor(a/b)`. */
export function dimMod(a: Dim, b: Dim): Dim {
  const ca = dimConstant(a);
  const cb = dimConstant(b);
  if (cb === 0) throw new DimError(`dimension ${a.text} modulo zero`);
  if (ca !== undefined && cb !== undefined) return dim(ca - cb * Math.floor(ca / cb));
  return dimExactDiv(a, b) !== undefined ? dim(0) : binaryAtom("mod", a, b);
}

export function dimMin(a: Dim, b: Dim): Dim {
  if (a.text === b.text) return a;
  const ca = dimConstant(a);
  const cb = dimConstant(b);
  if (ca !== undefined && cb !== undefined) return dim(Math.min(ca, cb));
  return a.text < b.text ? binaryAtom("min", a, b) : binaryAtom("min", b, a);
}

export function dimMax(a: Dim, b: Dim): Dim {
  if (a.text === b.text) return a;
  const ca = dimConstant(a);
  const cb = dimConstant(b);
  if (ca !== undefined && cb !== undefined) return dim(Math.max(ca, cb));
  return a.text < b.text ? binaryAtom("max", a, b) : binaryAtom("max", b, a);
}

/** True when the two are equal for every value of their symbols, as far as the canonical form shows. */
export function dimEqual(a: Dim, b: Dim): boolean {
  return a.text === b.text;
}

export function shapeEqual(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((d, i) => d.text === b[i]?.text);
}

/** The value of a dim without symbols, undefined otherwise. */
export function dimConstant(d: Dim): number | undefined {
  if (d.monomials.length === 0) return 0;
  const only = d.monomials[0];
  return d.monomials.length === 1 && only !== undefined && only.atoms.length === 0 ? only.coefficient : undefined;
}

/** The product of all sizes: the element count of a shape. */
export function dimProduct(shape: readonly Dim[]): Dim {
  return shape.reduce(dimMul, dim(1));
}

/** Values for symbols, by name. */
export type DimEnv = Readonly<Record<string, number>>;

/** The value under `env`. Throws DimError naming the first symbol that has none. */
export function dimEval(d: Dim, env: DimEnv): number {
  let sum = 0;
  for (const m of d.monomials) {
    let product = m.coefficient;
    for (const atom of m.atoms) product *= atomEval(atom, env);
    sum += product;
  }
  return sum;
}

function atomEval(atom: Atom, env: DimEnv): number {
  if (atom.kind === "symbol") {
    const value = Object.hasOwn(env, atom.name) ? env[atom.name] : undefined;
    if (value === undefined) throw new DimError(`no size is known for dimension ${atom.name}`);
    return value;
  }
  const a = dimEval(atom.a, env);
  const b = dimEval(atom.b, env);
  switch (atom.kind) {
    case "min":
      return Math.min(a, b);
    case "max":
      return Math.max(a, b);
    case "div":
    case "mod": {
      if (b === 0) throw new DimError(`dimension ${atomText(atom)} divides by zero`);
      const q = Math.floor(a / b);
      return atom.kind === "div" ? q : a - b * q;
    }
    default:
      return atom satisfies never;
  }
}

/** Replaces symbols by dims; symbols not in `by` stay. */
export function dimSubstitute(d: Dim, by: ReadonlyMap<string, Dim>): Dim {
  let sum = dim(0);
  for (const m of d.monomials) {
    let product = dim(m.coefficient);
    for (const atom of m.atoms) {
      product = dimMul(product, atom.kind === "symbol" ? (by.get(atom.name) ?? dimSymbol(atom.name)) : rebuilt(atom, by));
    }
    sum = dimAdd(sum, product);
  }
  return sum;
}

function rebuilt(atom: Exclude<Atom, { kind: "symbol" }>, by: ReadonlyMap<string, Dim>): Dim {
  const a = dimSubstitute(atom.a, by);
  const b = dimSubstitute(atom.b, by);
  return { div: dimDiv, mod: dimMod, min: dimMin, max: dimMax }[atom.kind](a, b);
}

/** Every symbol's name in `d`, once, in order of appearance. */
export function dimSymbols(d: Dim): readonly string[] {
  const names = new Set<string>();
  const visit = (x: Dim): void => {
    for (const m of x.monomials) {
      for (const atom of m.atoms) {
        if (atom.kind === "symbol") names.add(atom.name);
        else {
          visit(atom.a);
          visit(atom.b);
        }
      }
    }
  };
  visit(d);
  return [...names];
}

/** Reads the canonical text (and any sum of products with div, mod, min and max). Throws DimError with the column. */
export function dimParse(text: string): Dim {
  let at = 0;
  const fail = (expected: string): never => {
    throw new DimError(`dimension "${text}": expected ${expected} at column ${at + 1}`);
  };
  const space = (): void => {
    while (text[at] === " ") at++;
  };
  const take = (token: string): boolean => {
    space();
    if (!text.startsWith(token, at)) return false;
    at += token.length;
    return true;
  };
  const primary = (depth: number): Dim => {
    if (depth > 200) throw new DimError("dimension is nested more than 200 deep");
    space();
    if (take("(")) {
      const inner = sum(depth + 1);
      if (!take(")")) fail(")");
      return inner;
    }
    if (take("-")) return dimSub(dim(0), primary(depth + 1));
    const number = /^\d+/.exec(text.slice(at));
    if (number !== null) {
      at += number[0].length;
      return dim(Number(number[0]));
    }
    const name = /^[A-Za-z_][\w.$']*/.exec(text.slice(at))?.[0];
    if (name === undefined) return fail("a number or a name");
    at += name.length;
    const build = { div: dimDiv, mod: dimMod, min: dimMin, max: dimMax }[name];
    if (build === undefined || !take("(")) return dimSymbol(name);
    const a = sum(depth + 1);
    if (!take(",")) fail(",");
    const b = sum(depth + 1);
    if (!take(")")) fail(")");
    return build(a, b);
  };
  const product = (depth: number): Dim => {
    let left = primary(depth);
    while (take("*")) left = dimMul(left, primary(depth));
    return left;
  };
  const sum = (depth: number): Dim => {
    let left = product(depth);
    for (;;) {
      if (take("+")) left = dimAdd(left, product(depth));
      else if (take("-")) left = dimSub(left, product(depth));
      else return left;
    }
  };
  const result = sum(0);
  space();
  if (at < text.length) fail("the end");
  return result;
}

/** Inclusive bounds of `d` given those of its symbols; an unknown upper bound is Infinity. */
export function dimBounds(d: Dim, symbols: ReadonlyMap<string, DimSymbol>): { lower: number; upper: number } {
  let lower = 0;
  let upper = 0;
  for (const m of d.monomials) {
    let range = { lower: 1, upper: 1 };
    for (const atom of m.atoms) range = times(range, atomBounds(atom, symbols));
    const scaled = times(range, { lower: m.coefficient, upper: m.coefficient });
    lower += scaled.lower;
    upper += scaled.upper;
  }
  return { lower, upper };
}

type Range = { lower: number; upper: number };

function times(a: Range, b: Range): Range {
  const all = [a.lower * b.lower, a.lower * b.upper, a.upper * b.lower, a.upper * b.upper].map((x) => (Number.isNaN(x) ? 0 : x));
  return { lower: Math.min(...all), upper: Math.max(...all) };
}

function atomBounds(atom: Atom, symbols: ReadonlyMap<string, DimSymbol>): Range {
  if (atom.kind === "symbol") {
    const s = symbols.get(atom.name);
    return { lower: s?.lower ?? 0, upper: s?.upper ?? Infinity };
  }
  const a = dimBounds(atom.a, symbols);
  const b = dimBounds(atom.b, symbols);
  switch (atom.kind) {
    case "min":
      return { lower: Math.min(a.lower, b.lower), upper: Math.min(a.upper, b.upper) };
    case "max":
      return { lower: Math.max(a.lower, b.lower), upper: Math.max(a.upper, b.upper) };
    case "div":
      return b.lower > 0 && a.lower >= 0
        ? { lower: b.upper === Infinity ? 0 : Math.floor(a.lower / b.upper), upper: Math.floor(a.upper / b.lower) }
        : { lower: -Infinity, upper: Infinity };
    case "mod":
      return b.lower > 0 ? { lower: 0, upper: b.upper - 1 } : { lower: -Infinity, upper: Infinity };
    default:
      return atom satisfies never;
  }
}
