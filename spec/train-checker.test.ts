// The train section as the checker reads it: what it gives, and every mistake at its place.

import { describe, expect, test } from "vitest";
import { matches } from "../compiler/train/settings.ts";
import { trainProgram } from "./train-support.ts";

const graph = `config rate: float = 0.001
module Head(d: int) {
  param weight: f32[3, d]
  param bias: f32[3] ~ constant(0)
  forward(x: f32[N, d]) -> f32[N, 3] { linear(x, weight, bias) }
}
graph g(x: f32[N, 8], labels: i32[N]) -> (loss: f32[], logits: f32[N, 3]) {
  use head = Head(8)
  let logits = head(x)
  (cross_entropy(logits, labels), logits)
}
`;

const whole = `loss: "loss", trainable: ["**"], optimiser { rate: 0.1 }`;

describe("the train section", () => {
  test("gives its settings, with what is usual for those left out", () => {
    const { diagnostics, train } = trainProgram(`${graph}train { ${whole} }`);
    expect(diagnostics).toEqual([]);
    expect(train).toEqual({
      graph: "g",
      loss: "loss",
      trainable: ["**"],
      frozen: [],
      optimiser: { name: "adamw", rate: 0.1, betas: [0.9, 0.999], eps: 1e-8, decay: 0, undecayed: [], rates: [] },
      schedule: { kind: "constant", warmup: { k: "steps", count: 0 } },
      accumulate: 1,
    });
  });

  test("takes shape code, and configuration as the command line sets it", () => {
    const text = `${graph}const most = 2
train {
  graph: "g", loss: "loss", trainable: ["head.*"], frozen: ["head.bias"], steps: 100 * most, accumulate: most, clip: 1
  optimiser { name: "adamw", rate: rate, betas: (0.8, 0.9), eps: 1e-6, decay: 0.1, undecayed: ["**.bias"], rates: [("head.weight", rate / 2)] }
  schedule { kind: "cosine", warmup: 0.03 }
}`;
    const { diagnostics, train } = trainProgram(text, { rate: "0.5" });
    expect(diagnostics).toEqual([]);
    expect(train).toMatchObject({
      steps: 200,
      accumulate: 2,
      clip: 1,
      frozen: ["head.bias"],
      optimiser: { rate: 0.5, betas: [0.8, 0.9], eps: 1e-6, undecayed: ["**.bias"], rates: [["head.weight", 0.25]] },
      schedule: { kind: "cosine", warmup: { k: "share", of: 0.03 } },
    });
  });

  test("computes in halves where it is told to, f16 with a scale for the loss", () => {
    const of = (more: string): unknown => {
      const { diagnostics, train } = trainProgram(`${graph}train { ${whole}, ${more} }`);
      expect(diagnostics).toEqual([]);
      return [train?.compute, train?.scaling];
    };
    expect(of('compute: "f32"')).toEqual([undefined, undefined]);
    expect(of('compute: "bf16"')).toEqual(["bf16", undefined]);
    expect(of('compute: "f16"')).toEqual(["f16", { initial: 65536, every: 2000 }]);
    expect(of('compute: "f16", scaling { initial: 2, every: 3 }')).toEqual(["f16", { initial: 2, every: 3 }]);
  });

  test.each([
    [`train { ${whole}, learning: 1 }`, "UHD0601", "learning"],
    [`train { ${whole}, loss: "loss" }`, "UHD0102", "loss"],
    [`train { loss: "loss", optimiser { rate: 0.1 } }`, "UHD0601", "train {"],
    [`train { loss: "loss", trainable: ["**"] }`, "UHD0601", "train {"],
    [`train { loss: "loss", trainable: ["**"], optimiser { decay: 0 } }`, "UHD0601", "optimiser {"],
    [`train { loss: "los", trainable: ["**"], optimiser { rate: 0.1 } }`, "UHD0603", '"los"'],
    [`train { loss: "logits", trainable: ["**"], optimiser { rate: 0.1 } }`, "UHD0603", '"logits"'],
    [`train { ${whole}, graph: "h" }`, "UHD0603", '"h"'],
    [`train { ${whole}, frozen: ["head.bias", "tail.*"] }`, "UHD0604", '"tail.*"'],
    [`train { loss: "loss", trainable: ["**"], optimiser { rate: 0.1, rates: [("nobody", 1.0)] } }`, "UHD0604", '("nobody", 1.0)'],
    [`train { loss: "loss", trainable: ["**"], optimiser { rate: 0 - 0.1 } }`, "UHD0602", "0 - 0.1"],
    [`train { loss: "loss", trainable: ["**"], optimiser { rate: "fast" } }`, "UHD0602", '"fast"'],
    [`train { loss: "loss", trainable: ["**"], optimiser { rate: 0.1, betas: (0.9, 1) } }`, "UHD0602", "(0.9, 1)"],
    [`train { loss: "loss", trainable: ["**"], optimiser { name: "sgd", rate: 0.1 } }`, "UHD0602", '"sgd"'],
    [`train { ${whole}, schedule { kind: "cosin" } }`, "UHD0602", '"cosin"'],
    [`train { ${whole}, schedule { warmup: 1.5 } }`, "UHD0602", "1.5"],
    [`train { ${whole}, schedule: "cosine" }`, "UHD0602", '"cosine"'],
    [`train { ${whole}, accumulate: 0 }`, "UHD0602", "0"],
    [`train { ${whole}, clip: 0 }`, "UHD0602", "0"],
    [`train { ${whole}, clip { most: 1 } }`, "UHD0602", "clip {"],
    [`train { ${whole}, steps: nobody }`, "UHD0101", "nobody"],
    [`train { ${whole}, compute: "half" }`, "UHD0602", '"half"'],
    [`train { ${whole}, compute: 16 }`, "UHD0602", "16"],
    [`train { ${whole}, compute: "bf16", scaling { every: 5 } }`, "UHD0602", "scaling {"],
    [`train { ${whole}, compute: "f16", scaling { initial: 1000 } }`, "UHD0602", "1000"],
    [`train { ${whole}, compute: "f16", scaling { every: 0 } }`, "UHD0602", "0"],
    [`train { ${whole}, compute: "f16", scaling { backoff: 0.5 } }`, "UHD0601", "backoff"],
    [`train { ${whole}, lora { rank: 2, targets: ["head.bias"] } }`, "UHD0604", '"head.bias"'],
    [`train { ${whole}, lora { rank: 2, targets: ["head.weight"], dropout: 0.1 } }`, "UHD0602", "0.1"],
    [`train { ${whole} }\ntrain { ${whole} }`, "UHD0102", "train {"],
  ])("%s", (section, code, at) => {
    const text = graph + section;
    const { diagnostics, train } = trainProgram(text);
    expect(diagnostics.map((d) => d.code)).toEqual([code]);
    expect(train).toBeUndefined();
    const span = diagnostics[0]?.span;
    expect(text.slice(span?.start, span?.end).startsWith(at)).toBe(true);
  });
});

test.each([
  ["model.**", "model.layers.0.mlp.weight", true],
  ["model.*", "model.layers.0", false],
  ["model.layers.*.mlp.*", "model.layers.10.mlp.weight", true],
  ["**.bias", "bias", false],
  ["**bias", "bias", true],
  ["a.b", "axb", false],
  ["head.weight", "head.weight.more", false],
])("the pattern %s and the name %s: %s", (pattern, name, expected) => {
  expect(matches(pattern, name)).toBe(expected);
});
