// The script that installs a software Vulkan in CI finds the archive in the machine's own source lists, in both formats.
// It installs nothing here.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, test } from "vitest";
import { root } from "./cli-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-vulkan-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const lists = {
  deb822: `Types: deb
# a comment
URIs: http://archive.example/debian
Suites: stable stable-updates
Components: main
Signed-By: /keys/archive.gpg

Types: deb
URIs: http://archive.example/security
Suites: stable-security
Components: main
`,
  "one line": `# deb http://old.example/debian stable main
deb-src http://source.example/debian stable main
deb [arch=amd64 signed-by=/keys/archive.gpg] http://archive.example/debian stable main contrib
`,
} as const;

test.runIf(process.platform === "linux").each(Object.entries(lists))("the archive of a suite is found in a %s list", (name, text) => {
  const file = path.join(folder, `${name.replace(" ", "-")}.list`);
  writeFileSync(file, text);
  const run = (suite: string): string =>
    spawnSync("bash", [path.join(root, ".ci/install-vulkan.sh"), "--archive", suite, file], { encoding: "utf8" }).stdout;
  expect(run("stable")).toBe("URIs: http://archive.example/debian\nSigned-By: /keys/archive.gpg\n");
  expect(run("testing")).toBe("");
});
