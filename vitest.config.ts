import { defineConfig } from "vitest/config";

// Node 20 has relaxed SIMD behind a flag that later releases no longer know. With it both variants of every kernel are
// tested; programs that tests start as users do run without it.
const relaxed = Number(process.versions.node.split(".")[0]) < 22 ? ["--experimental-wasm-relaxed-simd"] : [];

export default defineConfig({
  test: {
    include: ["spec/**/*.test.ts", "examples/**/*.test.ts"],
    pool: "forks",
    poolOptions: { forks: { execArgv: relaxed } },
    testTimeout: 60_000,
  },
});
