// Lanes of one unit: what the emulator does where they meet, and what the verifier refuses because some lanes would wait
// for others that never come.

import { describe, expect, test } from "vitest";
import { dim } from "../compiler/ir/dim.ts";
import * as b from "../compiler/ir/imp/build.ts";
import { ImpError, runImp } from "../compiler/ir/imp/eval.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "../compiler/ir/imp/types.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";

const [unit, lane] = [b.local("unit", "i32"), b.local("lane", "i32")];

function workgroup(body: readonly ImpStmt[], lanes = 8, subgroup = 4): ImpFunction {
  return {
    name: "f",
    buffers: [
      { name: "x", dtype: "f32", access: "read" },
      { name: "y", dtype: "f32", access: "write" },
    ],
    dims: ["N"],
    scratch: [{ name: "shared", dtype: "f32", size: dim(lanes), space: "workgroup" }],
    units: dim(2),
    unit: "unit",
    lanes,
    lane: "lane",
    subgroup,
    body,
    sources: [],
  };
}

const place = b.add(b.mul(unit, b.int(8)), lane);
const own = b.load(b.at("x", place), "f32");
const put = (value: ImpExpr): ImpStmt => b.store(b.at("y", place), value);
const exchange = (op: "from" | "xor", value: ImpExpr, by: ImpExpr): ImpStmt => ({
  k: "exchange",
  name: "e",
  type: "f32",
  op,
  value,
  lane: by,
});
const x = Float32Array.from({ length: 16 }, (_, i) => i);

function run(body: readonly ImpStmt[]): number[] {
  const fn = workgroup(body);
  expect(verifyImp(fn)).toEqual([]);
  const y = new Float32Array(16);
  runImp(fn, { x, y }, { N: 3 });
  return [...y];
}

describe("lanes that meet", () => {
  test("see after a barrier what others wrote before it", () => {
    const other = b.load(b.at("shared", b.sub(b.int(7), lane)), "f32");
    expect(run([b.store(b.at("shared", lane), own), { k: "barrier" }, put(other)])).toEqual(
      [7, 6, 5, 4, 3, 2, 1, 0].concat([15, 14, 13, 12, 11, 10, 9, 8]),
    );
  });

  test("take values from each other within their subgroup", () => {
    const e = b.local("e", "f32");
    expect(run([exchange("xor", own, b.int(3)), put(e)])).toEqual([3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]);
    expect(run([exchange("from", own, b.int(1)), put(e)])).toEqual([1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13]);
  });

  test("take what is given in this round of a loop, not in the next", () => {
    const scaled = b.mul(own, { k: "convert", a: b.local("i", "i32"), type: "f32" });
    const body = [
      b.bind("sum", b.float(0), true),
      b.loop("i", b.int(1), b.size("N"), 1, [
        exchange("xor", scaled, b.int(1)),
        b.assign("sum", b.add(b.local("sum", "f32"), b.local("e", "f32"))),
      ]),
      put(b.local("sum", "f32")),
    ];
    expect(run(body).slice(0, 4)).toEqual([3, 0, 9, 6]);
  });

  test("agree on what is declared uniform, or that is an error", () => {
    const uniform = (value: ImpExpr): ImpStmt => ({ k: "uniform", name: "u", type: "i32", value });
    const loop = b.loop("i", b.int(0), b.local("u", "i32"), 1, [{ k: "barrier" }]);
    const loaded: ImpExpr = { k: "convert", a: b.load(b.at("x", unit), "f32"), type: "i32" };
    expect(run([uniform(loaded), loop])).toEqual(new Array(16).fill(0));
    expect(() => run([uniform(lane), loop])).toThrow(ImpError);
  });

  test("must be there: a lane beyond the subgroup is an error", () => {
    expect(() => run([exchange("from", own, b.int(4))])).toThrow("a subgroup of 4 has no lane 4");
  });
});

describe("the verifier", () => {
  const wrong = (body: readonly ImpStmt[]): readonly string[] => verifyImp(workgroup(body));

  test("refuses to let lanes meet where not all of them come", () => {
    const meet: readonly ImpStmt[] = [{ k: "barrier" }];
    const same = { k: "uniform", name: "u", type: "i32", value: b.load(b.at("x", unit), "i32") } as const;
    expect(wrong([b.when(b.lt(lane, b.int(3)), meet)])).toEqual(["function f: a barrier is where not all lanes come"]);
    expect(wrong([b.loop("i", b.int(0), lane, 1, [exchange("xor", own, b.int(1))])])).toEqual([
      "function f: exchange e is where not all lanes come",
    ]);
    const loaded = b.lt(own, b.float(0));
    expect(wrong([b.when(loaded, [], meet)])).toHaveLength(1);
    expect(wrong([{ k: "while", cond: loaded, body: meet }])).toHaveLength(1);
    // A variable that some lanes change.
    const n = b.local("n", "i32");
    const change = b.when(b.lt(lane, b.int(3)), [b.assign("n", b.int(1))]);
    expect(wrong([b.bind("n", b.int(0), true), change, b.when(b.lt(n, b.int(1)), meet)])).toHaveLength(1);
    expect(wrong([b.bind("n", b.int(0), true), b.when(b.lt(n, b.size("N")), meet)])).toEqual([]);
    expect(wrong([b.when(b.lt(unit, b.size("N")), meet)])).toEqual([]);
    expect(wrong([{ ...same, value: b.size("N") }, b.when(b.lt(b.local("u", "i32"), b.int(2)), meet)])).toEqual([]);
  });

  test("refuses subgroups that are none", () => {
    expect(verifyImp(workgroup([], 8, 3))).toEqual(["function f: 8 lanes are not in subgroups of 3"]);
    expect(verifyImp(workgroup([], 8, 16))).toHaveLength(1);
    const { subgroup: _, ...without } = workgroup([exchange("xor", own, b.int(1))]);
    expect(verifyImp(without)).toEqual(["function f: exchange e: the function has no subgroups"]);
    expect(wrong([exchange("xor", own, lane)])).toEqual(["function f: exchange e: the bits that differ are no constant"]);
    expect(wrong([exchange("from", own, b.float(1))])).toEqual(["function f: exchange e: its lane is f32, not i32"]);
    expect(wrong([exchange("from", b.int(1), lane)])).toEqual(["function f: exchange e: its value is i32, not f32"]);
  });
});
