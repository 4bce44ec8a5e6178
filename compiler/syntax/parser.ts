// The parser: tokens to tree, in one pass, with chevrotain's error recovery so that several mistakes are found in one run.
// The tree of a file with syntax errors is not checked further, so its holes do no harm. Here are the rules of a file and
// its items; chevrotain wants all rules on one object, so the other rules are inherited, a class for each subject.

import type { IParserConfig, IToken } from "chevrotain";
import type { Span } from "../ir/loc.ts";
import type { Block, FileAst, ForwardItem, Ident, Item, ModuleMember, ParamItem, Parameter, Result, Setting } from "./ast.ts";
import { StatementGrammar } from "./grammar/statements.ts";
import * as T from "./tokens.ts";

export class UhdParser extends StatementGrammar {
  constructor(config: IParserConfig) {
    super(config);
    this.performSelfAnalysis();
  }

  /** Parses one file. `lineStarts` has the start offset of every token that is the first of its line outside brackets. */
  parse(file: string, tokens: IToken[], lineStarts: ReadonlySet<number>, whole: Span): FileAst {
    this.open(file, tokens, lineStarts);
    const items = this.items();
    return { file, items: items ?? [], comments: [], span: whole };
  }

  private items = this.RULE("items", (): Item[] => {
    const items: Item[] = [];
    this.MANY(() => {
      const item = this.SUBRULE(this.item);
      this.OPTION(() => this.CONSUME(T.Semicolon));
      this.ACTION(() => item !== undefined && items.push(item));
    });
    return items;
  });

  private item = this.RULE("item", (): Item | undefined =>
    this.OR({
      DEF: [
        { ALT: () => this.SUBRULE(this.importItem) },
        { ALT: () => this.SUBRULE(this.valueItem) },
        { ALT: () => this.SUBRULE(this.typeItem) },
        { ALT: () => this.SUBRULE(this.fnItem) },
        { ALT: () => this.SUBRULE(this.moduleItem) },
        { ALT: () => this.SUBRULE(this.graphItem) },
        { ALT: () => this.SUBRULE(this.trainItem) },
      ],
      ERR_MSG: "an item: import, config, const, type, fn, module, graph or train",
    }),
  );

  private importItem = this.RULE("importItem", (): Item => {
    const first = this.CONSUME(T.Import);
    const names: { name: Ident; as: Ident }[] = [];
    this.CONSUME(T.LeftBrace);
    this.MANY_SEP({
      SEP: T.Comma,
      DEF: () => {
        const name = this.CONSUME(T.Identifier);
        let as = name;
        this.OPTION(() => {
          this.CONSUME(T.As);
          as = this.CONSUME2(T.Identifier);
        });
        this.ACTION(() => names.push({ name: this.ident(name), as: this.ident(as) }));
      },
    });
    this.CONSUME(T.RightBrace);
    this.CONSUME(T.From);
    const path = this.CONSUME(T.Text);
    return this.ACTION(() => ({
      kind: "import",
      names,
      path: T.unquote(path.image),
      pathSpan: this.spanOf(path, path),
      span: this.since(first),
    }));
  });

  private valueItem = this.RULE("valueItem", (): Item => {
    const first = this.OR([{ ALT: () => this.CONSUME(T.Config) }, { ALT: () => this.CONSUME(T.Const) }]);
    const name = this.CONSUME(T.Identifier);
    const type = this.OPTION(() => {
      this.CONSUME(T.Colon);
      return this.SUBRULE(this.type);
    });
    this.CONSUME(T.Assign);
    const value = this.SUBRULE(this.expression);
    return this.ACTION(() => ({
      kind: first.tokenType === T.Config ? "config" : "const",
      name: this.ident(name),
      ...(type === undefined ? {} : { type }),
      value,
      span: this.since(first),
    }));
  });

  private typeItem = this.RULE("typeItem", (): Item => {
    const first = this.CONSUME(T.Type);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Assign);
    const type = this.SUBRULE(this.type);
    return this.ACTION(() => ({ kind: "type", name: this.ident(name), type, span: this.since(first) }));
  });

  private fnItem = this.RULE("fnItem", (): Item => {
    const first = this.CONSUME(T.Fn);
    const name = this.CONSUME(T.Identifier);
    const params = this.SUBRULE(this.parameters);
    const result = this.OPTION(() => {
      this.CONSUME(T.Arrow);
      return this.SUBRULE(this.type);
    });
    const body = this.OR([
      { ALT: () => this.SUBRULE(this.block) },
      {
        ALT: (): Block => {
          this.CONSUME(T.Assign);
          const value = this.SUBRULE(this.expression);
          return this.ACTION(() => ({ statements: [], value, span: value.span }));
        },
      },
    ]);
    return this.ACTION(() => ({
      kind: "fn",
      name: this.ident(name),
      params,
      ...(result === undefined ? {} : { result }),
      body,
      span: this.since(first),
    }));
  });

  private moduleItem = this.RULE("moduleItem", (): Item => {
    const first = this.CONSUME(T.Module);
    const name = this.CONSUME(T.Identifier);
    const params = this.SUBRULE(this.parameters);
    const members: ModuleMember[] = [];
    this.CONSUME(T.LeftBrace);
    this.MANY(() => {
      const member = this.SUBRULE(this.member);
      this.SUBRULE(this.separator);
      this.ACTION(() => member !== undefined && members.push(member));
    });
    this.CONSUME(T.RightBrace);
    return this.ACTION(() => ({ kind: "module", name: this.ident(name), params, members, span: this.since(first) }));
  });

  private member = this.RULE("member", (): ModuleMember | undefined =>
    this.OR({
      DEF: [
        { ALT: () => this.SUBRULE(this.paramItem) },
        { ALT: () => this.SUBRULE(this.useItem) },
        { ALT: () => this.SUBRULE(this.forwardItem) },
        { ALT: () => this.SUBRULE(this.letStatement) },
      ],
      ERR_MSG: "a member of a module: param, use, let or forward",
    }),
  );

  private graphItem = this.RULE("graphItem", (): Item => {
    const first = this.CONSUME(T.Graph);
    const name = this.CONSUME(T.Identifier);
    const params = this.SUBRULE(this.parameters);
    this.CONSUME(T.Arrow);
    const results = this.SUBRULE(this.results);
    const body = this.SUBRULE(this.block);
    return this.ACTION(() => ({ kind: "graph", name: this.ident(name), params, results, body, span: this.since(first) }));
  });

  private trainItem = this.RULE("trainItem", (): Item => {
    const first = this.CONSUME(T.Train);
    const settings = this.SUBRULE(this.settings);
    return this.ACTION(() => ({ kind: "train", settings, span: this.since(first) }));
  });

  private settings = this.RULE(
    "settings",
    (): readonly Setting[] =>
      this.nested(() => {
        const settings: Setting[] = [];
        this.CONSUME(T.LeftBrace);
        this.MANY(() => {
          // `graph` is a word of the language, and the natural name of this setting.
          const name = this.OR3([{ ALT: () => this.CONSUME(T.Identifier) }, { ALT: () => this.CONSUME(T.Graph) }]);
          const value = this.OR([
            {
              ALT: () => {
                this.CONSUME(T.Colon);
                return this.SUBRULE(this.expression);
              },
            },
            {
              ALT: () => {
                const inner = this.SUBRULE(this.settings);
                return { kind: "settings" as const, settings: inner };
              },
            },
          ]);
          this.OPTION(() => this.OR2([{ ALT: () => this.CONSUME(T.Comma) }, { ALT: () => this.CONSUME(T.Semicolon) }]));
          this.ACTION(() => settings.push({ name: this.ident(name), value, span: this.since(name) }));
        });
        this.CONSUME(T.RightBrace);
        return settings;
      }),
    this.aList,
  );

  // ---- Module members and signatures ----

  private parameters = this.RULE(
    "parameters",
    (): readonly Parameter[] => {
      const params: Parameter[] = [];
      this.CONSUME(T.LeftParen);
      this.MANY_SEP({
        SEP: T.Comma,
        DEF: () => {
          const name = this.CONSUME(T.Identifier);
          this.CONSUME(T.Colon);
          const type = this.SUBRULE(this.type);
          const bounds = this.OPTION(() => {
            this.CONSUME(T.In);
            return this.SUBRULE(this.range);
          });
          const value = this.OPTION2(() => {
            this.CONSUME(T.Assign);
            return this.SUBRULE(this.expression);
          });
          this.ACTION(() => {
            const more = { ...(bounds === undefined ? {} : { bounds }), ...(value === undefined ? {} : { value }) };
            params.push({ name: this.ident(name), type, ...more, span: this.since(name) });
          });
        },
      });
      this.CONSUME(T.RightParen);
      return params;
    },
    this.aList,
  );

  private results = this.RULE(
    "results",
    (): readonly Result[] =>
      this.OR({
        // `(` always starts a list of results: no output is a tuple.
        IGNORE_AMBIGUITIES: true,
        DEF: [
          {
            ALT: () => {
              const results: Result[] = [];
              this.CONSUME(T.LeftParen);
              this.AT_LEAST_ONE_SEP({
                SEP: T.Comma,
                DEF: () => {
                  const one = this.SUBRULE(this.result);
                  this.ACTION(() => one !== undefined && results.push(one));
                },
              });
              this.CONSUME(T.RightParen);
              return results;
            },
          },
          {
            ALT: () => {
              const one = this.SUBRULE2(this.result);
              return this.ACTION(() => (one === undefined ? [] : [one]));
            },
          },
        ],
      }),
    this.aList,
  );

  private result = this.RULE("result", (): Result | undefined => {
    const first = this.LA(1);
    const name = this.OPTION(() => {
      const token = this.CONSUME(T.Identifier);
      this.CONSUME(T.Colon);
      return token;
    });
    const type = this.SUBRULE(this.type);
    return this.ACTION(() => ({ ...(name === undefined ? {} : { name: this.ident(name) }), type, span: this.since(first) }));
  });

  private paramItem = this.RULE("paramItem", (): ParamItem => {
    const first = this.CONSUME(T.Param);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Colon);
    const type = this.SUBRULE(this.type);
    const path = this.OPTION(() => {
      this.CONSUME(T.At);
      return this.SUBRULE(this.expression);
    });
    const init = this.OPTION2(() => {
      this.CONSUME(T.Tilde);
      return this.SUBRULE2(this.expression);
    });
    return this.ACTION(() => ({
      kind: "param",
      name: this.ident(name),
      type,
      ...(path === undefined ? {} : { path }),
      ...(init === undefined ? {} : { init }),
      span: this.since(first),
    }));
  });

  private forwardItem = this.RULE("forwardItem", (): ForwardItem => {
    const first = this.CONSUME(T.Forward);
    const name = this.OPTION(() => this.CONSUME(T.Identifier));
    const params = this.SUBRULE(this.parameters);
    this.CONSUME(T.Arrow);
    const results = this.SUBRULE(this.results);
    const body = this.SUBRULE(this.block);
    return this.ACTION(() => ({
      kind: "forward",
      name: name === undefined ? { ...this.ident(first), name: "forward" } : this.ident(name),
      params,
      results,
      body,
      span: this.since(first),
    }));
  });
}
