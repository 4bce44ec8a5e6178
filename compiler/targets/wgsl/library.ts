// Functions that rendered kernels call: operations whose results WGSL leaves to the driver, or where a driver that assumes
// there are no NaN, infinities or negative zeros goes wrong. Written over the bits of numbers, which no driver rewrites.
// Those that are polynomials come from the expansions that all targets share (see functions.ts).
//
// In these texts F, I, U and B are the types of numbers, signed and unsigned integers and truth values, for one number or
// four; `name$` is the function `name` of that width.

/** Where a name ends in `1`, the function takes single numbers and is called for each of four. */
const templates = {
  // An unsigned 0 that no compiler can know: what is combined with it is not rewritten.
  hidden: "fn hidden() -> u32 { return u32(args.units) >> 31u; }",
  opaque$: "fn opaque$(x: F) -> F { return bitcast<F>(bitcast<U>(x) ^ U(hidden())); }",
  neg$: "fn neg$(x: F) -> F { return bitcast<F>(bitcast<U>(x) ^ U(0x80000000u ^ hidden())); }",
  // Drivers may take what is below the normal numbers for 0.
  floor$: "fn floor$(x: F) -> F { return select(floor(x), F(-1.0f), (bitcast<U>(x) - U(0x80000001u)) < U(0x007fffffu)); }",
  ceil$: "fn ceil$(x: F) -> F { return select(ceil(x), F(1.0f), (bitcast<U>(x) - U(1u)) < U(0x007fffffu)); }",
  nan$: "fn nan$(x: F) -> B { return (bitcast<U>(x) & U(0x7fffffffu)) > U(0x7f800000u); }",
  // Integers in the order of the numbers, the two zeros alike.
  key$: "fn key$(x: F) -> I { let i = bitcast<I>(x); return select(i, I(-2147483648) - i, i < I(0)); }",
  eq$: "fn eq$(a: F, b: F) -> B { return (key$(a) == key$(b)) & !nan$(a); }",
  ne$: "fn ne$(a: F, b: F) -> B { return (key$(a) != key$(b)) | nan$(a); }",
  lt$: "fn lt$(a: F, b: F) -> B { return (key$(a) < key$(b)) & !(nan$(a) | nan$(b)); }",
  le$: "fn le$(a: F, b: F) -> B { return (key$(a) <= key$(b)) & !(nan$(a) | nan$(b)); }",
  // Integers in the order of the numbers, -0 before 0. It is its own inverse.
  order$: "fn order$(i: I) -> I { return i ^ ((i >> U(31u)) & I(0x7fffffff)); }",
  min$: `fn min$(a: F, b: F) -> F {
  let least = order$(min(order$(bitcast<I>(a)), order$(bitcast<I>(b))));
  return bitcast<F>(select(least, I(0x7fc00000), nan$(a) | nan$(b)));
}`,
  max$: `fn max$(a: F, b: F) -> F {
  let most = order$(max(order$(bitcast<I>(a)), order$(bitcast<I>(b))));
  return bitcast<F>(select(most, I(0x7fc00000), nan$(a) | nan$(b)));
}`,
  // Zeros and NaN are themselves.
  sign$: `fn sign$(x: F) -> F {
  let u = bitcast<U>(x);
  let m = u & U(0x7fffffffu);
  return bitcast<F>(select((u & U(0x80000000u)) | U(0x3f800000u), u, (m == U(0u)) | (m > U(0x7f800000u))));
}`,
  // Toward zero, saturating, NaN -> 0. i32() itself saturates at 2147483520, the largest f32 below 2^31.
  int$: `fn int$(x: F) -> I {
  let i = bitcast<I>(x);
  return select(select(I(x), I(2147483647), i >= I(0x4f000000)), I(0), nan$(x));
}`,
  truth$: "fn truth$(x: F) -> B { return (bitcast<U>(x) & U(0x7fffffffu)) != U(0u); }",
  idiv$: "fn idiv$(a: I, b: I) -> I { let zero = b == I(0); return select(a / select(b, I(1), zero), I(0), zero); }",
  // The sign of the divisor.
  imod$: `fn imod$(a: I, b: I) -> I {
  let zero = b == I(0);
  let rest = a % select(b, I(1), zero);
  return select(select(rest, rest + b, (rest != I(0)) & ((rest ^ b) < I(0))), I(0), zero);
}`,
  // The bits of x as a whole number times 2^exponent: (mantissa, exponent), also below the normal numbers.
  parts1: `fn parts1(x: f32) -> vec2u {
  let u = bitcast<u32>(x) & 0x7fffffffu;
  if (u < 0x00800000u) {
    let up = countLeadingZeros(u) - 8u;
    return vec2u(u << (up & 31u), 1u - up);
  }
  return vec2u((u & 0x007fffffu) | 0x00800000u, u >> 23u);
}`,
  // The leading 12 bits of a number, as a number.
  head1: "fn head1(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u); }",
  // a - q·b, exactly where the product is near a.
  rest1: `fn rest1(a: f32, q: f32, b: f32) -> f32 {
  let qh = head1(q);
  let ql = q - qh;
  let bh = head1(b);
  let bl = b - bh;
  return (((a - qh * bh) - qh * bl) - ql * bh) - ql * bl;
}`,
  // x·2^e in steps that neither overflow nor vanish early.
  scale1: `fn scale1(x: f32, e: i32) -> f32 {
  let c = clamp(e, -278, 278);
  let a = c / 3;
  let b = c - a - a;
  return ((x * bitcast<f32>(u32(b + 127) << 23u)) * bitcast<f32>(u32(a + 127) << 23u)) * bitcast<f32>(u32(a + 127) << 23u);
}`,
  // Drivers divide with an error of 2.5 units; the exact remainder of their quotient of mantissas mends it.
  div1: `fn div1(a: f32, b: f32) -> f32 {
  let sign = (bitcast<u32>(a) ^ bitcast<u32>(b)) & 0x80000000u;
  let x = bitcast<u32>(a) & 0x7fffffffu;
  let y = bitcast<u32>(b) & 0x7fffffffu;
  if (x > 0x7f800000u || y > 0x7f800000u || (x == 0u && y == 0u) || (x == 0x7f800000u && y == 0x7f800000u)) {
    return bitcast<f32>(0x7fc00000u ^ hidden());
  }
  if (x == 0u || y == 0x7f800000u) { return bitcast<f32>(sign); }
  if (y == 0u || x == 0x7f800000u) { return bitcast<f32>(sign | 0x7f800000u); }
  let p = parts1(a);
  let r = parts1(b);
  let m = bitcast<f32>((p.x & 0x007fffffu) | 0x3f800000u);
  let n = bitcast<f32>((r.x & 0x007fffffu) | 0x3f800000u);
  let q = m / n;
  let mended = q + rest1(m, q, n) / n;
  return bitcast<f32>(bitcast<u32>(scale1(mended, i32(p.y) - i32(r.y))) | sign);
}`,
  sqrt1: `fn sqrt1(x: f32) -> f32 {
  let u = bitcast<u32>(x);
  if ((u & 0x7fffffffu) == 0u || u == 0x7f800000u) { return x; }
  if (u > 0x7f800000u) { return bitcast<f32>(0x7fc00000u ^ hidden()); }
  let p = parts1(x);
  // In [1, 4) times an even power of two.
  let odd = (p.y & 1u) ^ 1u;
  let m = bitcast<f32>(((p.x & 0x007fffffu) | 0x3f800000u) + (odd << 23u));
  let s = sqrt(m);
  let mended = s + rest1(m, s, s) / (s + s);
  return scale1(mended, (i32(p.y) - i32(odd) - 127) / 2);
}`,
  rsqrt$: "fn rsqrt$(x: F) -> F { return div$(F(1.0f), sqrt$(x)); }",
  // Remainders of mantissas, eight bits at a time; exact. The sign is that of the divisor.
  mod1: `fn mod1(a: f32, b: f32) -> f32 {
  let x = bitcast<u32>(a) & 0x7fffffffu;
  let y = bitcast<u32>(b) & 0x7fffffffu;
  if (x >= 0x7f800000u || y > 0x7f800000u || y == 0u) { return bitcast<f32>(0x7fc00000u ^ hidden()); }
  var rest = a;
  if (y != 0x7f800000u && x >= y) {
    let p = parts1(a);
    let q = parts1(b);
    var left = i32(p.y) - i32(q.y);
    var r = p.x % q.x;
    while (left > 0 && r != 0u) {
      let by = min(left, 8);
      r = (r << u32(by)) % q.x;
      left -= by;
    }
    var u = 0u;
    if (r != 0u) {
      // Below the normal numbers the exponent is 1 and the leading bit is not there.
      let up = countLeadingZeros(r) - 8u;
      let e = i32(q.y) - i32(up);
      if (e >= 1) { u = ((r << up) & 0x007fffffu) | (u32(e) << 23u); } else { u = (r << up) >> u32(1 - e); }
    }
    rest = bitcast<f32>(u | (bitcast<u32>(a) & 0x80000000u));
  }
  let crosses = (bitcast<u32>(rest) & 0x7fffffffu) != 0u && ((bitcast<u32>(rest) ^ bitcast<u32>(b)) >> 31u) != 0u;
  if (crosses) { return rest + b; }
  return rest;
}`,
  // The upper and lower halves of a product.
  wide1: `fn wide1(a: u32, b: u32) -> vec2u {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let low = al * bl;
  let middle = ah * bl + (low >> 16u);
  let other = al * bh + (middle & 0xffffu);
  return vec2u(ah * bh + (middle >> 16u) + (other >> 16u), (other << 16u) | (low & 0xffffu));
}`,
  // |x| less the nearest multiple of π/2 and the multiple's number: the mantissa times 192 bits of 2/π (Payne and Hanek),
  // of which those that matter are taken.
  reduce1: `fn reduce1(x: f32) -> vec2f {
  let u = bitcast<u32>(x) & 0x7fffffffu;
  if (u <= 0x3f490fdau) { return vec2f(bitcast<f32>(u), 0.0f); }
  var digits = array<u32, 6>(0x3c439041u, 0xdb629599u, 0xf534ddc0u, 0xfc2757d1u, 0x4e441529u, 0xa2f9836eu);
  var words = array<u32, 8>();
  let m = (u << 8u) | 0x80000000u;
  var carry = 0u;
  for (var i = 0u; i < 6u; i++) {
    let p = wide1(m, digits[i]);
    let low = p.y + carry;
    words[i] = low;
    carry = p.x + select(0u, 1u, low < carry);
  }
  words[6] = carry;
  let e = i32(u >> 23u) - 128;
  let at = u32(4 - (e >> 5u));
  let by = u32(e) & 31u;
  var high = words[at + 2u];
  var low = words[at + 1u];
  if (by != 0u) {
    high = (high << by) | (low >> (32u - by));
    low = (low << by) | (words[at] >> (32u - by));
  }
  var turns = high >> 30u;
  high = (high << 2u) | (low >> 30u);
  low = low << 2u;
  let up = high >> 31u;
  turns += up;
  if (up != 0u) {
    high = ~high + select(0u, 1u, low == 0u);
    low = ~low + 1u;
  }
  let zeros = min(countLeadingZeros(high), 31u);
  var top = high;
  if (zeros > 0u) { top = (high << zeros) | (low >> (32u - zeros)); }
  let r = (f32(top) * bitcast<f32>((95u - zeros) << 23u)) * 1.57079632679489662f;
  return vec2f(select(r, -r, up != 0u), f32(turns & 3u));
}`,
  // Polynomials of Cephes' sinf and cosf on [-π/4, π/4]. turn: 0 for the sine, 1 for the cosine, 2 for minus the sine …
  turned1: `fn turned1(r: f32, turn: u32) -> f32 {
  let z = r * r;
  let s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * (z * r) + r;
  let c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * (z * z) - 0.5f * z + 1.0f;
  let value = bitcast<u32>(select(s, c, (turn & 1u) != 0u));
  return bitcast<f32>(value ^ ((turn & 2u) << 30u));
}`,
  sin1: `fn sin1(x: f32) -> f32 {
  let u = bitcast<u32>(x) & 0x7fffffffu;
  if (u >= 0x7f800000u) { return bitcast<f32>(0x7fc00000u ^ hidden()); }
  // x itself, to the last bit and with its sign.
  if (u < 0x39800000u) { return x; }
  let r = reduce1(x);
  return bitcast<f32>(bitcast<u32>(turned1(r.x, u32(r.y))) ^ (bitcast<u32>(x) & 0x80000000u));
}`,
  cos1: `fn cos1(x: f32) -> f32 {
  if ((bitcast<u32>(x) & 0x7fffffffu) >= 0x7f800000u) { return bitcast<f32>(0x7fc00000u ^ hidden()); }
  let r = reduce1(x);
  return turned1(r.x, u32(r.y) + 1u);
}`,
  // Sum and product of two numbers with what their rounding lost. The sum is hidden, or a driver finds that nothing was.
  sum1: `fn sum1(a: f32, b: f32) -> vec2f {
  let s = bitcast<f32>(bitcast<u32>(a + b) ^ hidden());
  let t = bitcast<f32>(bitcast<u32>(s - a) ^ hidden());
  return vec2f(s, (a - (s - t)) + (b - t));
}`,
  product1: `fn product1(a: f32, b: f32) -> vec2f {
  let p = bitcast<f32>(bitcast<u32>(a * b) ^ hidden());
  return vec2f(p, -rest1(p, a, b));
}`,
  // 2^(y·log2 |x|): the logarithm is 2·artanh((m - 1)/(m + 1)) in two numbers, m in [√½, √2).
  power1: `fn power1(x: f32, y: f32) -> f32 {
  let p = parts1(x);
  var e = i32(p.y) - 127;
  var m = bitcast<f32>((p.x & 0x007fffffu) | 0x3f800000u);
  if (m > 1.41421356f) {
    m = m * 0.5f;
    e += 1;
  }
  let f = m - 1.0f;
  let g = sum1(m, 1.0f);
  let q = f / g.x;
  let s = sum1(q, (rest1(f, q, g.x) - q * g.y) / g.x);
  let z = s.x * s.x;
  let tail = (((((0.0769230769f * z + 0.0909090909f) * z + 0.111111111f) * z + 0.142857143f) * z + 0.2f) * z + 0.333333333f) * (z * s.x);
  // log2 m = 2/ln 2 · (s + tail), 2/ln 2 in two numbers.
  let l = sum1(s.x, s.y + tail);
  let h = product1(l.x, 2.88539004f);
  let log = sum1(f32(e), h.x);
  let low = log.y + h.y + (l.y * 2.88539004f + l.x * 3.85192598e-8f);
  let rough = y * log.x;
  if (abs(rough) > 300.0f) { return bitcast<f32>(select(0x7f800000u, 0u, rough < 0.0f)); }
  let t = product1(y, log.x);
  let n = round(t.x);
  let r = (t.x - n) + (t.y + y * low);
  let v = ((((((1.54035304e-4f * r + 1.33335581e-3f) * r + 9.61812911e-3f) * r + 5.55041087e-2f) * r + 2.40226507e-1f) * r + 6.93147181e-1f) * r) + 1.0f;
  return scale1(v, i32(n));
}`,
  // IEEE 754: 1 to any power and anything to the power 0 is 1, NaN too.
  pow1: `fn pow1(x: f32, y: f32) -> f32 {
  let a = bitcast<u32>(x) & 0x7fffffffu;
  let b = bitcast<u32>(y) & 0x7fffffffu;
  if (b == 0u || bitcast<u32>(x) == 0x3f800000u) { return 1.0f; }
  if (a > 0x7f800000u || b > 0x7f800000u) { return bitcast<f32>(0x7fc00000u ^ hidden()); }
  let down = (bitcast<u32>(y) >> 31u) != 0u;
  if (b == 0x7f800000u) {
    if (a == 0x3f800000u) { return 1.0f; }
    return bitcast<f32>(select(0u, 0x7f800000u, (a > 0x3f800000u) != down));
  }
  // Is y a whole number, an odd one? Its lowest bit of mantissa that counts says so.
  let e = i32(b >> 23u) - 127;
  var whole = e >= 24;
  var odd = false;
  if (e >= 0 && e < 24) {
    let unit = u32(23 - e);
    let n = ((b & 0x007fffffu) | 0x00800000u);
    whole = (n & ((1u << unit) - 1u)) == 0u;
    odd = whole && ((n >> unit) & 1u) != 0u;
  }
  let sign = select(0u, bitcast<u32>(x) & 0x80000000u, odd);
  if (a == 0u || a == 0x7f800000u) { return bitcast<f32>(sign | select(0u, 0x7f800000u, (a != 0u) != down)); }
  if (bitcast<u32>(x) >= 0x80000000u && !whole) { return bitcast<f32>(0x7fc00000u ^ hidden()); }
  return bitcast<f32>(bitcast<u32>(power1(bitcast<f32>(a), y)) | sign);
}`,
  // The bits of the nearest half, ties to even; NaN stays NaN.
  half1: `fn half1(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let a = u & 0x7fffffffu;
  let sign = (u >> 16u) & 0x8000u;
  if (a > 0x7f800000u) { return 0x7e00u; }
  if (a >= 0x477ff000u) { return sign | 0x7c00u; }
  if (a >= 0x38800000u) { return sign | ((a - 0x38000000u + 0xfffu + ((a >> 13u) & 1u)) >> 13u); }
  if (a < 0x33000000u) { return sign; }
  let m = (a & 0x007fffffu) | 0x00800000u;
  let by = 126u - (a >> 23u);
  let kept = m >> by;
  let lost = m & ((1u << by) - 1u);
  let tie = 1u << (by - 1u);
  return sign | (kept + select(0u, 1u, lost > tie || (lost == tie && (kept & 1u) != 0u)));
}`,
  bfloat1: `fn bfloat1(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) { return 0x7fc0u; }
  return (u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u;
}`,
  dot16:
    "fn dot16(a: vec4i, b: vec4i) -> vec4i { return ((a << vec4u(16u)) >> vec4u(16u)) * ((b << vec4u(16u)) >> vec4u(16u)) + (a >> vec4u(16u)) * (b >> vec4u(16u)); }",
  narrow16: `fn narrow16(a: vec4i, b: vec4i) -> vec4i {
  let x = clamp(a, vec4i(-32768), vec4i(32767)) & vec4i(0xffff);
  let y = clamp(b, vec4i(-32768), vec4i(32767)) & vec4i(0xffff);
  return vec4i(x.x | (x.y << 16u), x.z | (x.w << 16u), y.x | (y.y << 16u), y.z | (y.w << 16u));
}`,
  // Four bytes, a pair in each of two integers.
  bytesI: `fn bytesI(x: i32) -> vec2i {
  let v = (vec4i(x) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u);
  return vec2i((v.x & 0xffff) | (v.y << 16u), (v.z & 0xffff) | (v.w << 16u));
}`,
  bytes: `fn bytes(x: i32) -> vec2i {
  let v = (vec4i(x) >> vec4u(0u, 8u, 16u, 24u)) & vec4i(255);
  return vec2i(v.x | (v.y << 16u), v.z | (v.w << 16u));
}`,
  addAcross: "fn addAcross(v: vec4f) -> f32 { return (v.x + v.z) + (v.y + v.w); }",
  mulAcross: "fn mulAcross(v: vec4f) -> f32 { return (v.x * v.z) * (v.y * v.w); }",
  minAcross: "fn minAcross(v: vec4f) -> f32 { let h = min4(v.xyxy, v.zwzw); return min1(h.x, h.y); }",
  maxAcross: "fn maxAcross(v: vec4f) -> f32 { let h = max4(v.xyxy, v.zwzw); return max1(h.x, h.y); }",
  addAcrossI: "fn addAcrossI(v: vec4i) -> i32 { return (v.x + v.z) + (v.y + v.w); }",
  mulAcrossI: "fn mulAcrossI(v: vec4i) -> i32 { return (v.x * v.z) * (v.y * v.w); }",
  minAcrossI: "fn minAcrossI(v: vec4i) -> i32 { return min(min(v.x, v.z), min(v.y, v.w)); }",
  maxAcrossI: "fn maxAcrossI(v: vec4i) -> i32 { return max(max(v.x, v.z), max(v.y, v.w)); }",
} as const;

const byName: ReadonlyMap<string, string> = new Map(Object.entries(templates));

/** Functions of one or two numbers that are called for each of four. */
const eachLane: Readonly<Record<string, number>> = { div: 2, sqrt: 1, mod: 2, sin: 1, cos: 1, pow: 2 };

const types: Readonly<Record<"1" | "4", Readonly<Record<string, string>>>> = {
  "1": { F: "f32", I: "i32", U: "u32", B: "bool" },
  "4": { F: "vec4f", I: "vec4i", U: "vec4u", B: "vec4<bool>" },
};

/** The text of the function `name` (`lt4`, `div1`, `hidden`); undefined when there is none. */
export function libraryText(name: string): string | undefined {
  const direct = byName.get(name);
  if (direct !== undefined) return direct;
  const [base, width] = [name.slice(0, -1), name.slice(-1)];
  if (width !== "1" && width !== "4") return undefined;
  const wide = byName.get(`${base}$`);
  if (wide !== undefined) return wide.replace(/\b[FIUB]\b/g, (t) => types[width][t] ?? t).replaceAll("$", width);
  const count = eachLane[base];
  if (width === "1" || count === undefined) return undefined;
  const args = ["a", "b"].slice(0, count);
  const lanes = ["x", "y", "z", "w"].map((lane) => `${base}1(${args.map((a) => `${a}.${lane}`).join(", ")})`);
  return `fn ${name}(${args.map((a) => `${a}: vec4f`).join(", ")}) -> vec4f { return vec4f(${lanes.join(", ")}); }`;
}

/** The names of functions that a text calls. */
export function calledIn(text: string): readonly string[] {
  return [...text.matchAll(/\b([a-zA-Z]+[14]?I?)\(/g)].map((m) => m[1] ?? "");
}
