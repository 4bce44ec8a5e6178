// spec/ops.md is what the op table says today.

import { expect, test } from "vitest";
import { opNames } from "../ops/index.ts";
import { opsDocument } from "./ops-doc.ts";

test("spec/ops.md is generated from the op table and not stale", async () => {
  await expect(opsDocument()).toMatchFileSnapshot("./ops.md");
});

test("the page has an entry for every op", () => {
  const page = opsDocument();
  for (const name of opNames) expect(page).toContain(`**\`${name}(`);
});
