// A process that runs a compiled graph once on WebGPU, as an application does, with the runtime alone: node cold-ours.js
// ARTEFACT WEIGHTS X RESULT ROWS COLUMNS. X and RESULT are files of f32. Milliseconds since the process began, when the result
// is there, go to standard output as JSON.

import { readFile, writeFile } from "node:fs/promises";
import { loadArtefact, Session } from "../../runtime/index.ts";
import { WebGpuDevice } from "../../runtime/webgpu.ts";

const [artefact = "", weights = "", given = "", result = "", ...shape] = process.argv.slice(2);
const [device, graph, bytes] = await Promise.all([WebGpuDevice.create(), loadArtefact(artefact), readFile(given)]);
const session = await Session.create(graph, { device, weights });
const x = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const { outputs } = await session.run({ x: { dtype: "f32", shape: shape.map(Number), data: x } });
const { data } = Object.values(outputs)[0] ?? { data: new Float32Array() };
// performance.now() counts from the start of the process.
const milliseconds = performance.now();
await writeFile(result, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
process.stdout.write(JSON.stringify({ milliseconds, device: device.description }), () => process.exit(0));
