// A process that runs an ONNX model once on ONNX Runtime's WebGPU provider, as an application does: node cold-onnx.js PACKAGE
// MODEL X RESULT ROWS COLUMNS. X and RESULT are files of f32. Milliseconds since the process began, when the result is there,
// go to standard output as JSON.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { Ort } from "./peers.ts";

const [from = "", model = "", given = "", result = "", ...shape] = process.argv.slice(2);
const ort = createRequire(from)("onnxruntime-node") as Ort;
const [session, bytes] = await Promise.all([
  ort.InferenceSession.create(model, { executionProviders: ["webgpu"], graphOptimizationLevel: "all", logSeverityLevel: 3 }),
  readFile(given),
]);
const x = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const outputs = await session.run({ x: new ort.Tensor("float32", x, shape.map(Number)) });
const { data } = Object.values(outputs)[0] ?? { data: new Float32Array() };
// performance.now() counts from the start of the process.
const milliseconds = performance.now();
await writeFile(result, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
process.stdout.write(JSON.stringify({ milliseconds }), () => process.exit(0));
