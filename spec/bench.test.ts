// What the benches rest on: ONNX models that are what they should be, statistics, agreement, rows. The benches
// themselves are not run here; they check their peers' results whenever they run.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { difference, interleaved, mustAgree, spread } from "./bench/measure.ts";
import { layerModel, matmulModel, type Weights } from "./bench/models.ts";
import { Message, OnnxGraph } from "./bench/onnx.ts";
import { interpolate, sineCosine } from "./bench/positions.ts";
import { failedRow, quantity, table, type Row } from "./bench/rows.ts";
import { limited, versus, type Ours, type Peer } from "./bench/versus.ts";

/** A protobuf message read back without its schema: field number → values in order. */
type Fields = ReadonlyMap<number, readonly (number | Uint8Array)[]>;

function decode(bytes: Uint8Array): Fields {
  const fields = new Map<number, (number | Uint8Array)[]>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = view.getUint8(at++);
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const field = Math.floor(tag / 8);
    const read = (): number | Uint8Array => {
      switch (tag % 8) {
        case 0:
          return varint();
        case 2: {
          const length = varint();
          at += length;
          return bytes.subarray(at - length, at);
        }
        case 5:
          at += 4;
          return view.getFloat32(at - 4, true);
        default:
          throw new Error(`wire type ${tag % 8}`);
      }
    };
    fields.set(field, [...(fields.get(field) ?? []), read()]);
  }
  return fields;
}

function inner(fields: Fields, field: number): readonly Fields[] {
  return (fields.get(field) ?? []).map((value) => decode(value instanceof Uint8Array ? value : new Uint8Array()));
}

function texts(fields: Fields, field: number): readonly string[] {
  return (fields.get(field) ?? []).map((value) => (value instanceof Uint8Array ? new TextDecoder().decode(value) : String(value)));
}

describe("the ONNX writer", () => {
  test("encodes numbers, floats, text and messages as protobuf does", () => {
    const message = new Message().int(1, 300).float(2, 1.5).text(3, "é").message(4, new Message().int(16, 0));
    expect([...message.encode()]).toEqual([8, 0xac, 2, 21, 0, 0, 0xc0, 0x3f, 26, 2, 0xc3, 0xa9, 34, 3, 128, 1, 0]);
    expect(decode(new Message().int(1, 2 ** 40 + 5).encode()).get(1)).toEqual([2 ** 40 + 5]);
    expect(() => new Message().int(1, -1)).toThrow(RangeError);
  });

  test("writes a matrix multiply with its operand inside", () => {
    const b = Float32Array.of(1, 2, 3, 4, 5, 6);
    const { model, external } = matmulModel(4, 3, 2, b).encode("inside");
    expect(external.size).toBe(0);
    const fields = decode(model);
    const [graph] = inner(fields, 7);
    expect(texts(inner(fields, 8)[0] ?? new Map(), 1)).toEqual([""]);
    const [node] = inner(graph ?? new Map(), 1);
    expect(texts(node ?? new Map(), 4)).toEqual(["MatMul"]);
    expect(texts(node ?? new Map(), 1)).toEqual(["x", "b"]);
    const [tensor] = inner(graph ?? new Map(), 5);
    expect(tensor?.get(1)).toEqual([3, 2]);
    expect(tensor?.get(9)).toEqual([new Uint8Array(b.buffer)]);
  });

  test("keeps large weights beside the model, without a copy", () => {
    const graph = new OnnxGraph("g");
    const data = new Float32Array(1000).fill(7);
    graph.initializer("large", { type: "float", dims: [1000], data });
    graph.initializer("small", { type: "float", dims: [1], data: Float32Array.of(1) });
    const { model, external } = graph.encode("beside");
    expect([...external.keys()]).toEqual(["large"]);
    expect(external.get("large")?.buffer).toBe(data.buffer);
    expect(model.byteLength).toBeLessThan(200);
  });

  test("refuses a tensor whose shape is not its size, and a name that is taken", () => {
    const graph = new OnnxGraph("g");
    expect(() => graph.initializer("a", { type: "float", dims: [3], data: new Float32Array(2) })).toThrow("2 elements and a shape of 3");
    graph.initializer("a", { type: "float", dims: [2], data: new Float32Array(2) });
    expect(() => graph.initializer("a", { type: "float", dims: [2], data: new Float32Array(2) })).toThrow("two initialisers");
  });

  test("names the weight that a model lacks", () => {
    const weights: Weights = new Map();
    expect(() => layerModel(4, { layers: 1, width: 8, heads: 2 }, weights)).toThrow(
      "there is no weight vision_model.encoder.layers.0.mlp.fc1.bias",
    );
  });
});

interface Fixture {
  readonly resized: readonly { readonly to: readonly [number, number]; readonly values: readonly number[] }[];
  readonly positions: readonly { readonly side: number; readonly width: number; readonly values: readonly number[] }[];
}

describe("positions for the peers", () => {
  const fixture = JSON.parse(readFileSync(new URL("./fixtures/llava-uhd-tiny.json", import.meta.url), "utf8")) as Fixture;

  test.each(fixture.resized)("are PyTorch's bicubic to $to", ({ to: [h, w], values }) => {
    const from = Float32Array.from({ length: 16 }, (_, i) => i ** 1.5);
    const out = new Float32Array(1 + h * w);
    interpolate(from, 4, 1, [w, h], out, 1);
    expect(difference(out.subarray(1), Float32Array.from(values)).largest).toBeLessThan(2e-5);
    expect(out[0]).toBe(0);
  });

  test.each(fixture.positions)("are the fixed ones of side $side and width $width", ({ side, width, values }) => {
    expect(difference(sineCosine(side, width), Float32Array.from(values)).largest).toBeLessThan(1e-6);
  });
});

describe("measuring", () => {
  test("takes turns, and repeats what is short", async () => {
    const order: string[] = [];
    let clock = 0;
    const contestant = (name: string, milliseconds: number): { name: string; run: () => Promise<void> } => ({
      name,
      run: () => {
        order.push(name);
        clock += milliseconds;
        return Promise.resolve();
      },
    });
    const work = { rounds: 3, budget: 10_000, least: 3, atLeast: 8, warmUp: 1 };
    const contestants = [contestant("slow", 10), contestant("fast", 2)];
    const times = await interleaved(contestants, work, undefined, () => clock);
    const round = "slow fast fast fast fast";
    expect(order.join(" ")).toBe(["slow fast", round, round, round].join(" "));
    expect(times).toEqual([
      [10, 10, 10],
      [2, 2, 2],
    ]);
  });

  test("stops after its budget, once there were the least of rounds", async () => {
    const run = (): Promise<void> => Promise.resolve();
    const times = await interleaved([{ name: "a", run }], { rounds: 50, budget: 0, least: 3, atLeast: 0, warmUp: 0 });
    expect(times[0]?.length).toBe(3);
  });

  test("gives median and quartiles", () => {
    expect(spread([4, 1, 3, 2])).toEqual({ median: 2.5, lower: 1.75, upper: 3.25 });
    expect(spread([7])).toEqual({ median: 7, lower: 7, upper: 7 });
  });

  test("refuses results that differ, and NaN", () => {
    expect(() => mustAgree("x", Float32Array.of(1, 2), Float32Array.of(1, 2.1), 0.01)).toThrow("x: the results differ by 1.00e-1");
    expect(() => mustAgree("x", Float32Array.of(NaN), Float32Array.of(1), 1)).toThrow("differ by Infinity");
    expect(() => mustAgree("x", Float32Array.of(1), Float32Array.of(Infinity), 1)).toThrow("differ by Infinity");
    expect(() => mustAgree("x", Float32Array.of(1), Float32Array.of(1, 2), 1)).toThrow("1 elements instead of 2");
    expect(mustAgree("x", Float32Array.of(1, 2), Float32Array.of(1, 2.01), 0.01).scale).toBeCloseTo(2.01);
  });
});

const context = { threads: 2, quick: true, engine: "Node 20" };
const work = { rounds: 3, budget: 1000, least: 3, atLeast: 0, warmUp: 0 };

function peer(name: string, result: Float32Array, closed: string[] = []): Peer {
  const opened = {
    name: `${name} 1.0`,
    run: () => Promise.resolve(),
    result: () => Promise.resolve(result),
    [Symbol.asyncDispose]: () => {
      closed.push(name);
      return Promise.resolve();
    },
  };
  return { name, goal: 2, tolerance: 1e-3, open: () => Promise.resolve(opened) };
}

describe("a bench against peers", () => {
  const ours: Ours = { name: "ours", run: () => Promise.resolve(), result: Float32Array.of(1, 2) };

  test("gives a row each, and says why a peer did not run", async () => {
    const absent: Peer = { name: "absent", tolerance: 0, open: () => Promise.reject(new Error("it is not installed")) };
    const closed: string[] = [];
    const rows = await versus("bench", context, ours, [peer("one", Float32Array.of(1, 2), closed), absent], work);
    expect(rows.map((r) => [r.peerName, r.notRun, r.rounds])).toEqual([
      ["one 1.0", undefined, 3],
      ["absent", "it is not installed", 3],
    ]);
    expect(rows[0]?.ratio).toBe(rows[0]?.spread?.ratio.median);
    expect(rows[1]?.ratio).toBeNull();
    expect(closed).toEqual(["one"]);
  });

  test("fails before timing when a peer gives other numbers, and closes it", async () => {
    let runs = 0;
    const counted: Ours = { ...ours, run: () => Promise.resolve(runs++) };
    const closed: string[] = [];
    await expect(versus("bench", context, counted, [peer("wrong", Float32Array.of(1, 3), closed)], work)).rejects.toThrow(
      "bench, wrong: the results differ",
    );
    expect(runs).toBe(0);
    expect(closed).toEqual(["wrong"]);
  });
});

describe("rows", () => {
  test("of a limit have the limit over ours as ratio", () => {
    const row = limited(context, { name: "size", ours: [40_000], limit: 60_000, limitName: "limit", unit: "bytes" });
    expect([row.ours, row.peer, row.ratio, row.goal]).toEqual([40_000, 60_000, 1.5, 1]);
  });

  test.each([[[]], [[NaN]], [[0]]])("of a limit are refused when what was measured is %j", (ours) => {
    expect(() => limited(context, { name: "size", ours, limit: 60_000, limitName: "limit", unit: "bytes" })).toThrow("was measured");
  });

  test("print as a table that marks what is below its goal", () => {
    const row: Row = {
      name: "matmul",
      threads: 1,
      ours: 10,
      peer: 15,
      peerName: "peer",
      ratio: 1.5,
      unit: "ms",
      rounds: 3,
      goal: 2,
      engine: "Node 20",
      variant: "plain",
    };
    const missing: Row = { ...row, peer: null, ratio: null, notRun: "no package" };
    const failed = failedRow("layer", 2, "Node 20", "the results\n  differ");
    const text = table([{ engine: "Node 20", rows: [row, missing, failed] }]);
    expect(text).toContain("Node 20, plain SIMD");
    expect(text).toMatch(/matmul +1 +10\.0 ms +15\.0 ms peer +1\.50× +2\.00 below/);
    expect(text).toMatch(/matmul +1 +10\.0 ms +– peer +– .*not run: no package/);
    expect(text).toMatch(/layer +2 +– +– – +– +not run: the results; differ/);
    expect(failed).toMatchObject({ ours: null, ratio: null });
    expect(table([{ engine: "Node 20", rows: [{ ...row, ratio: NaN }] }])).toMatch(/NaN× .*2\.00 below/);
  });

  test("choose readable units", () => {
    expect([
      quantity(0.1234, "ms"),
      quantity(123.4, "ms"),
      quantity(31_500, "ms"),
      quantity(47_213, "bytes"),
      quantity(2.5e9, "bytes"),
    ]).toEqual(["0.123 ms", "123 ms", "31.5 s", "47.2 kB", "2500 MB"]);
  });
});
