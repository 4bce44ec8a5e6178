// The README is true: its links lead somewhere, its first program checks, explains and compiles as it says, and the
// application it shows runs.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { transformSync } from "esbuild";
import { afterAll, describe, expect, test } from "vitest";
import { installRuntime, root, uhdc } from "./cli-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-readme-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const readme = readFileSync(path.join(root, "README.md"), "utf8");

/** The first block of code in a language. */
function block(language: string): string {
  const text = new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(readme)?.[1];
  if (text === undefined) throw new Error(`the README has no ${language}`);
  return text;
}

describe("the README", () => {
  test("links to files that exist", () => {
    const links = [...readme.matchAll(/\]\((?!https?:)([^)#]+)/g)].map((m) => m[1] ?? "");
    expect(links.length).toBeGreaterThan(3);
    expect(links.filter((link) => !existsSync(path.join(root, link)))).toEqual([]);
  });

  test("names scripts that the package has", () => {
    const { scripts } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as { readonly scripts: Record<string, string> };
    const named = [...readme.matchAll(/npm run ([a-z:]+)/g)].map((m) => m[1] ?? "");
    expect(named).toContain("photo");
    expect(named.filter((name) => scripts[name] === undefined)).toEqual([]);
  });

  test("has a first program that checks, explains and compiles, and an application of it that runs", async () => {
    const program = path.join(folder, "tokens.uhd");
    writeFileSync(program, block("uhd"));
    expect(await uhdc(["check", program])).toMatchObject({ code: 0, stderr: `${program}: ok (graphs: tokens)\n` });
    const explained = await uhdc(["explain", program, "--size", "T=576"]);
    expect(explained).toMatchObject({ code: 0, stderr: "" });
    expect(explained.stdout).toMatch(/^tokens: T = 576$/m);
    expect(await uhdc(["compile", program, "-o", path.join(folder, "tokens-compiled")])).toMatchObject({ code: 0, stderr: "" });
    installRuntime(folder);
    const application = block("ts").replace("index.ts", "index.js");
    writeFileSync(path.join(folder, "application.js"), transformSync(application, { loader: "ts", target: "node20" }).code);
    const { stdout, stderr } = spawnSync(process.execPath, ["application.js"], { cwd: folder, encoding: "utf8" });
    expect(stderr).toBe("");
    expect(stdout).toBe("[ 576, 8 ]\n");
  });
});
