// Reads a file and all it imports: names of each file, what they import from each other, circles and missing
// files. Does not look inside declarations.

import { closest } from "../diagnostics/index.ts";
import type { Span } from "../ir/loc.ts";
import { parseFile } from "../syntax/index.ts";
import type { Item } from "../syntax/ast.ts";
import type { Cx, Entity, FunctionInfo, Unit } from "./context.ts";
import { isBuiltin } from "./host.ts";
import { suggestion } from "./report.ts";
import { errorType } from "./types.ts";

const maximumFiles = 1000;

export interface Loaded {
  readonly units: ReadonlyMap<string, Unit>;
  readonly sources: ReadonlyMap<string, string>;
}

/** `to` as seen from the folder of `from`, without `.` and `..` where they cancel. */
function resolvePath(from: string, to: string): string {
  if (to.startsWith("/")) return to;
  const parts = from.split("/").slice(0, -1);
  for (const p of to.split("/")) {
    if (p === "..") {
      if (parts.length > 0 && parts.at(-1) !== ".." && parts.at(-1) !== "") parts.pop();
      else parts.push(p);
    } else if (p !== "." && p !== "") parts.push(p);
  }
  return parts.join("/");
}

export function wholeFile(file: string): Span {
  return { file, start: 0, end: 0, line: 1, column: 1, endLine: 1, endColumn: 1 };
}

const parsed = new Map<string, { readonly text: string; readonly tree: ReturnType<typeof parseFile> }>();
const keptFiles = 64;

/** Trees are never changed, so a file that several programs import is parsed once while its text stays the same. */
function parsedOnce(file: string, text: string): ReturnType<typeof parseFile> {
  const seen = parsed.get(file);
  if (seen?.text === text) return seen.tree;
  const tree = parseFile(file, text);
  parsed.delete(file);
  parsed.set(file, { text, tree });
  for (const oldest of parsed.keys()) {
    if (parsed.size <= keptFiles) break;
    parsed.delete(oldest);
  }
  return tree;
}

/** Loads `path` and everything it imports. Failures are reported; what could be read is returned. */
export function loadFiles(cx: Cx, path: string, readText: (path: string) => string): Loaded {
  const units = new Map<string, Unit>();
  const sources = new Map<string, string>();
  const open: string[] = [];

  const load = (file: string, from: Span | undefined): Unit | undefined => {
    const seen = units.get(file);
    if (seen !== undefined && !open.includes(file)) return seen;
    if (open.includes(file)) {
      cx.report.error("UHD0403", from ?? wholeFile(file), "imports go in a circle", {
        found: [...open.slice(open.indexOf(file)), file].join(" → "),
        help: "move what both need to a third file",
      });
      return undefined;
    }
    if (units.size >= maximumFiles) {
      cx.report.error("UHD0501", from ?? wholeFile(file), `more than ${maximumFiles} files`);
      return undefined;
    }
    let text: string;
    try {
      text = readText(file);
    } catch (cause) {
      const why =
        cause instanceof Error && "code" in cause && cause.code === "ENOENT"
          ? "there is no such file"
          : cause instanceof Error
            ? cause.message
            : String(cause);
      cx.report.error(from === undefined ? "UHD0401" : "UHD0402", from ?? wholeFile(file), `${file} cannot be read`, { found: why });
      return undefined;
    }
    sources.set(file, text);
    const { ast, diagnostics } = parsedOnce(file, text);
    cx.report.adopt(diagnostics);
    const unit: Unit = { file, ast, names: new Map(), missing: new Set() };
    units.set(file, unit);
    open.push(file);
    for (const item of ast.items) declare(cx, unit, item, load);
    open.pop();
    return unit;
  };
  load(path, undefined);
  return { units, sources };
}

function declare(cx: Cx, unit: Unit, item: Item, load: (file: string, from: Span) => Unit | undefined): void {
  const add = (name: string, entity: Entity, span: Span): void => {
    const before = unit.names.get(name);
    if (before === undefined) unit.names.set(name, { entity, span });
    else cx.report.twice(name, span, before.span);
  };
  switch (item.kind) {
    case "import": {
      const from = load(resolvePath(unit.file, item.path), item.pathSpan);
      for (const n of item.names) {
        const found = from?.names.get(n.name.name);
        if (found !== undefined) add(n.as.name, found.entity, n.as.span);
        else {
          unit.missing.add(n.as.name);
          if (from === undefined || from.missing.has(n.name.name)) continue;
          const near = closest(n.name.name, from.names.keys());
          cx.report.error(
            "UHD0405",
            n.name.span,
            `${from.file} declares no ${n.name.name}`,
            suggestion(n.name.name, near, near === undefined ? undefined : from.names.get(near)?.span),
          );
        }
      }
      return;
    }
    case "config":
    case "const":
      add(item.name.name, { k: "constant", item, unit, state: "new", value: { k: "error" } }, item.name.span);
      return;
    case "type":
      add(item.name.name, { k: "type", item, unit, state: "new", type: errorType }, item.name.span);
      return;
    case "fn": {
      let name = item.name.name;
      for (let i = 2; cx.infos.has(name) || isBuiltin(name); i++) name = `${item.name.name}.${i}`;
      const info: FunctionInfo = { item, unit, name, params: undefined, result: undefined, state: "new", broken: false };
      cx.infos.set(name, info);
      add(item.name.name, { k: "fn", item, unit, info }, item.name.span);
      return;
    }
    case "module":
      add(item.name.name, { k: "module", item, unit, instantiated: false }, item.name.span);
      return;
    case "graph":
      add(item.name.name, { k: "graph", item, unit }, item.name.span);
      return;
    case "train":
      return;
    default:
      item satisfies never;
  }
}
