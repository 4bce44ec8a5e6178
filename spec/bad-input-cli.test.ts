// Bad input, from the command line: each case ends with one clear error and the right exit code (1: the program or its
// inputs are wrong, 3: the machine cannot do it), within bounded memory, and leaves no output behind.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { explainFailure } from "../compiler/cli/failures.ts";
import * as errors from "../runtime/errors.ts";
import { openSafetensors } from "../runtime/weights/safetensors.ts";
import { smallGraph, uhdc } from "./cli-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-bad-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const inFolder = (name: string): string => path.join(folder, name);
const photo = "examples/photos/rocket.jpg";

beforeAll(async () => {
  const { code, stderr } = await uhdc(["compile", ...smallGraph, "-o", inFolder("artefact")]);
  expect(stderr).toBe("");
  expect(code).toBe(0);
}, 120_000);

/** Runs the artefact on `image`; the output folder must not appear when it fails. */
async function runOn(image: string, args: readonly string[] = ["--init", "seeded:1"]) {
  const out = inFolder("out");
  rmSync(out, { recursive: true, force: true });
  const result = await uhdc(["run", inFolder("artefact"), "--image", image, "-o", out, ...args]);
  return { ...result, out, written: existsSync(out) ? readdirSync(out).sort() : [] };
}

/** One error: a message on standard error without a stack, nothing on standard output, nothing written. */
function expectRefused(result: Awaited<ReturnType<typeof runOn>>, code: number, message: RegExp): void {
  expect(result.stderr).toMatch(message);
  expect(result.stderr).not.toMatch(/internal error|\n {4}at /);
  expect(result.stdout).toBe("");
  expect(result.code).toBe(code);
  expect(result.written).toEqual([]);
}

function pngChunk(kind: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(kind, "latin1"), data]);
  const out = Buffer.alloc(12 + data.byteLength);
  out.writeUInt32BE(data.byteLength, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body), 8 + data.byteLength);
  return out;
}

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** A PNG whose header says `width` × `height`, with `rows` rows of black pixels behind it. */
function png(width: number, height: number, rows: number): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const pixels = deflateSync(Buffer.alloc(rows * (1 + 3 * width)));
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, pngChunk("IHDR", header), pngChunk("IDAT", pixels), pngChunk("IEND", new Uint8Array())]);
}

describe("an image file", () => {
  const write = (name: string, bytes: Uint8Array): string => {
    writeFileSync(inFolder(name), bytes);
    return inFolder(name);
  };

  test("that is missing", async () => expectRefused(await runOn(inFolder("nothing.jpg")), 1, /nothing\.jpg: cannot be read: no such file/));

  test("that is a folder", async () => expectRefused(await runOn(folder), 1, /cannot be read: .* is not a file/));

  test("that is empty", async () => expectRefused(await runOn(write("empty.jpg", new Uint8Array())), 1, /empty\.jpg: the file is empty/));

  test("that is cut short", async () => {
    const whole = readFileSync(photo);
    expectRefused(
      await runOn(write("cut.jpg", whole.subarray(0, whole.byteLength / 3))),
      1,
      /cut\.jpg: the jpeg file is damaged or cut short/,
    );
    expectRefused(await runOn(write("head.jpg", whole.subarray(0, 11))), 1, /head\.jpg: the jpeg file is damaged/);
  });

  test("that is no image", async () => expectRefused(await runOn("package.json"), 1, /not a JPEG, PNG or WebP file/));

  test("whose header promises a thousand million pixels, in a few bytes", async () => {
    expectRefused(await runOn(write("bomb.png", png(40_000, 40_000, 1))), 1, /40000×40000 are 1600000000 pixels, over the limit/);
  });

  test("that expands to far more pixels than it states", async () => {
    const result = await runOn(write("overflow.png", png(20, 10, 40_000)));
    // Decoders may stop at the stated size; what counts is that it neither crashes nor grows.
    if (result.code !== 0) expectRefused(result, 1, /overflow\.png: the png file is damaged/);
  });

  test("of 20000×20000 pixels is refused by its header, before its pixels take memory", async () => {
    const file = inFolder("huge.png");
    const raw = { width: 20_000, height: 20_000, channels: 3 as const, background: "#204060" };
    await sharp({ create: raw, limitInputPixels: false }).png({ compressionLevel: 1, palette: false }).toFile(file);
    const begin = performance.now();
    // 256 MiB of heap and a fifth of what the pixels would take.
    const result = await uhdc(["run", inFolder("artefact"), "--image", file, "--init", "seeded:1", "-o", inFolder("huge")], {
      node: ["--max-old-space-size=256"],
    });
    expect(result.stderr).toMatch(/huge\.png: 20000×20000 are 400000000 pixels, over the limit of 178956970/);
    expect(result.code).toBe(1);
    expect(existsSync(inFolder("huge"))).toBe(false);
    expect(performance.now() - begin).toBeLessThan(20_000);
  }, 120_000);

  test.each([
    [1, 1],
    [1, 10_000],
    [10_000, 1],
    [3, 2],
  ])("of %i×%i pixels runs", async (width, height) => {
    const file = inFolder(`thin-${width}-${height}.png`);
    await sharp({ create: { width, height, channels: 3, background: "#ff8000" } })
      .png()
      .toFile(file);
    const result = await runOn(file);
    expect(result.stderr).toMatch(/^device: .*\n$/);
    expect(result.code).toBe(0);
    expect(result.written).toEqual(["contact-sheet.png", "visual.safetensors"]);
    await using outputs = await openSafetensors(path.join(result.out, "visual.safetensors"));
    const visual = outputs.tensors.get("visual");
    expect(visual?.shape[1]).toBe(64);
    const bytes = new Uint8Array((visual?.end ?? 0) - (visual?.begin ?? 0));
    await outputs.source.read(visual?.begin ?? 0, bytes);
    expect(new Float32Array(bytes.buffer).every(Number.isFinite)).toBe(true);
  });
});

describe("a checkpoint", () => {
  const weights = async (name: string, bytes: Uint8Array): Promise<Awaited<ReturnType<typeof runOn>>> => {
    writeFileSync(inFolder(name), bytes);
    return runOn(photo, ["--weights", inFolder(name)]);
  };
  const file = (header: string, data: Uint8Array = new Uint8Array(16), length?: bigint): Buffer => {
    const text = Buffer.from(header);
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(length ?? BigInt(text.byteLength));
    return Buffer.concat([size, text, data]);
  };
  const entry = (begin: number, end: number, dtype = "F32", shape = "[2]"): string =>
    `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`;

  test("that is missing", async () =>
    expectRefused(await runOn(photo, ["--weights", inFolder("none.safetensors")]), 1, /none\.safetensors cannot be opened/));

  test("that is empty", async () =>
    expectRefused(await weights("empty.safetensors", new Uint8Array()), 1, /empty\.safetensors .*: it is empty/));

  test.each([
    ["overlapping offsets", file(`{"a":${entry(0, 8)},"b":${entry(4, 12)}}`), /tensors "a" and "b" overlap/],
    ["negative offsets", file(`{"a":${entry(-8, 0)}}`), /"a" has the offsets \[-8,0\], which are not two positions/],
    [
      "offsets beyond the file",
      file(`{"a":${entry(8, 1_000_000, "F32", "[249998]")}}`),
      /"a" ends at byte 1000000 of the data, and the file has 16/,
    ],
    ["a header of 2^63 bytes", file("{}", new Uint8Array(16), 2n ** 63n), /its header has 9223372036854775808 bytes, and only 18 follow/],
    ["the same key twice", file(`{"a":${entry(0, 8)},"a":${entry(8, 16)}}`), /the key "a" twice/],
    ["an unknown dtype", file(`{"a":${entry(0, 8, "F31")}}`), /unknown dtype "F31"/],
    [
      "a size that is not its shape's",
      file(`{"a":${entry(0, 8, "F32", "[3]")}}`),
      /"a" of F32\[3\] needs 12 bytes, and its offsets hold 8/,
    ],
    ["a header that is not JSON", file("{nonsense", new Uint8Array(16)), /header is not JSON/],
  ])("with %s", async (name, bytes, message) => {
    expectRefused(await weights(`${name.replaceAll(/\W+/g, "-")}.safetensors`, bytes), 1, message);
  });

  test("that does not fit the graph: missing, extra and misshapen tensors in one error", async () => {
    const bytes = file(`{"vision_model.pre_layrnorm.weight":${entry(0, 8)},"something.else":${entry(8, 16)}}`);
    const result = await weights("other.safetensors", bytes);
    expectRefused(result, 1, /does not fit the graph:/);
    expect(result.stderr).toMatch(/missing \(\d+\): .*vision_model\./);
    expect(result.stderr).toMatch(/wrong shape or dtype \(1\): vision_model\.pre_layrnorm\.weight: expected f32\[64\], found f32\[2\]/);
    expect(result.stderr).toMatch(/not used by the graph \(1.*\): something\.else/);
  });

  test("with the right shape and a wrong dtype", async () => {
    const bytes = file(`{"vision_model.pre_layrnorm.weight":${entry(0, 64, "I8", "[64]")}}`, new Uint8Array(64));
    expectRefused(await weights("integers.safetensors", bytes), 1, /expected f32\[64\], found i8\[64\]/);
  });

  test("whose index names a file elsewhere", async () => {
    writeFileSync(inFolder("model.safetensors.index.json"), '{"weight_map":{"a":"../../etc/passwd"}}');
    expectRefused(await runOn(photo, ["--weights", inFolder("model.safetensors.index.json")]), 1, /which is not a file beside it/);
  });
});

describe("a program", () => {
  const source = (name: string, text: string): string => {
    writeFileSync(inFolder(name), text);
    return inFolder(name);
  };
  const commands = (file: string): readonly (readonly string[])[] => [
    ["check", file],
    ["compile", file, "-o", inFolder("compiled")],
    ["run", file, "--image", photo, "--init", "seeded:1", "-o", inFolder("out")],
    ["explain", file, "--image-size", "10x10"],
  ];
  const expectAll = async (file: string, message: RegExp): Promise<void> => {
    for (const args of commands(file)) {
      const { code, stderr, stdout } = await uhdc(args);
      expect(stderr).toMatch(message);
      expect(stderr).not.toMatch(/internal error|\n {4}at |this is a defect/);
      expect(stdout).toBe("");
      expect(code).toBe(1);
      expect(existsSync(inFolder("compiled"))).toBe(false);
    }
  };

  test("that is missing", async () => expectAll(inFolder("absent.uhd"), /absent\.uhd: cannot be read \(no such file\)/));

  test("that imports a missing file", async () =>
    expectAll(source("lost.uhd", 'import { a } from "./gone.uhd"\ngraph g(x: f32[N]) -> y: f32[N] { x }\n'), /gone\.uhd cannot be read/));

  test("that imports itself by way of another", async () => {
    source("one.uhd", 'import { b } from "./two.uhd"\nconst a = 1\n');
    await expectAll(
      source("two.uhd", 'import { a } from "./one.uhd"\nconst b = 1\ngraph g(x: f32[N]) -> y: f32[N] { x }\n'),
      /imports go in a circle/,
    );
  });

  test("nested ten thousand deep", async () => {
    const deep = `${"(".repeat(10_000)}x${")".repeat(10_000)}`;
    await expectAll(source("deep.uhd", `graph g(x: f32[N]) -> y: f32[N] { ${deep} }\n`), /nested too deeply/);
  });

  test("whose shape code calls itself without an end in sight", async () => {
    const file = source("recursive.uhd", "fn down(n: int) -> int = if n == 0 { 0 } else { 1 + down(n - 1) }\n");
    const { code, stderr } = await uhdc(["shape", file, "down", "1000000000"]);
    expect(stderr).toMatch(/^down\(1000000000\): .*recursive\.uhd:1:\d+: down calls itself more than \d+ deep\n$/);
    expect(code).toBe(1);
  });

  test("that needs more memory than there is, is refused before it is allocated: how much, and the largest value", async () => {
    // The outer sum of a photo's pixels: H·W by H·W numbers.
    const file = source(
      "large.uhd",
      `graph large(image: u8[H in 1..=20000, W in 1..=20000, 3]) -> sums: f32[H, W] {
  let x = reshape(cast(image, f32)[:, :, 0:1], [H * W, 1])
  let all = softmax(x @ transpose(x, [1, 0]), axis: -1)
  reshape(all @ x, [H, W])
}
`,
    );
    const begin = performance.now();
    rmSync(inFolder("out"), { recursive: true, force: true });
    const result = await uhdc(["run", file, "--image", photo, "-o", inFolder("out")]);
    expect(result.stderr).toMatch(
      /^large needs \d+ GiB for these inputs \(weights 0 bytes, arena \d+ GiB\) and there are [\d.]+ GiB; the largest value is \S+, f32\[273280, 273280\], 278 GiB$/m,
    );
    expect(
      result.stderr
        .trim()
        .replace(/^device: .*\n/, "")
        .split("\n"),
    ).toHaveLength(1);
    expect(result.code).toBe(3);
    expect(existsSync(inFolder("out"))).toBe(false);
    expect(performance.now() - begin).toBeLessThan(30_000);
  });
});

test("every error of the runtime is the user's to mend, not a defect", () => {
  const classes = Object.values(errors).filter((value) => value.prototype instanceof errors.UhdError);
  expect(classes.length).toBeGreaterThan(8);
  for (const { name, prototype } of classes) {
    const error = Object.assign(Object.create(prototype) as Error, { name, message: "what is wrong" });
    expect(explainFailure(error).message, name).toBe("what is wrong");
  }
});

test("a language model's folder without a tokenizer is refused", async () => {
  mkdirSync(inFolder("wordless"));
  writeFileSync(
    inFolder("wordless/config.json"),
    '{"model_type":"llama","hidden_size":64,"intermediate_size":64,"num_hidden_layers":1,"num_attention_heads":2,' +
      '"vocab_size":320,"rms_norm_eps":1e-5,"max_position_embeddings":128}',
  );
  const { code, stdout, stderr } = await uhdc(["chat", inFolder("wordless"), "--prompt", "hello"]);
  expect(stderr).toMatch(/^\S+wordless has no tokenizer\.json and no tokenizer\.model\n$/);
  expect(stdout).toBe("");
  expect(code).toBe(1);
});

describe("an artefact's folder", () => {
  test("that is not one", async () => {
    mkdirSync(inFolder("hollow"), { recursive: true });
    const { code, stderr } = await uhdc(["run", inFolder("hollow"), "--image", photo, "--init", "seeded:1", "-o", inFolder("out")]);
    expect(stderr).toMatch(/hollow: manifest\.json cannot be read/);
    expect(code).toBe(1);
  });

  test("that cannot be written", async () => {
    writeFileSync(inFolder("file"), "");
    for (const args of [
      ["compile", ...smallGraph, "-o", inFolder("file/below")],
      ["run", inFolder("artefact"), "--image", photo, "--init", "seeded:1", "-o", inFolder("file/below")],
    ]) {
      const { code, stderr } = await uhdc(args);
      expect(stderr).toMatch(/cannot be written/);
      expect(stderr).not.toMatch(/internal error/);
      expect(code).toBe(1);
    }
  });
});
