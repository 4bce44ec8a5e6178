// Chevrotain's own validation of the grammar and of the tokens (ambiguities, left recursion, unreachable tokens), which
// the product leaves out because it would cost every start.

import { Lexer } from "chevrotain";
import { expect, test } from "vitest";
import { UhdParser } from "../compiler/syntax/parser.ts";
import { allTokens } from "../compiler/syntax/tokens.ts";

test("the grammar is valid", () => {
  expect(() => new UhdParser({ skipValidations: false })).not.toThrow();
});

test("the tokens are valid", () => {
  const lexer = new Lexer([...allTokens], { positionTracking: "full", skipValidations: false, deferDefinitionErrorsHandling: true });
  expect(lexer.lexerDefinitionErrors).toEqual([]);
});
