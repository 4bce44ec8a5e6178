// Values of shape code that the caller gives at each run, beside sizes and integers: their types, as plain data, and
// whether a value is of one. Does not evaluate anything.

import type { HostValue } from "./host.ts";

/** The type of a given value. Integers are exact and of any sign. */
export type GivenType =
  | { readonly k: "int" | "float" | "bool" | "string" }
  | { readonly k: "list"; readonly of: GivenType }
  | { readonly k: "tuple"; readonly items: readonly GivenType[] }
  | { readonly k: "record"; readonly fields: readonly { readonly name: string; readonly type: GivenType }[] };

/** As a .uhd file has it: `[(int, int)]`. */
export function givenTypeText(t: GivenType): string {
  switch (t.k) {
    case "int":
    case "float":
    case "bool":
    case "string":
      return t.k;
    case "list":
      return `[${givenTypeText(t.of)}]`;
    case "tuple":
      return `(${t.items.map(givenTypeText).join(", ")})`;
    case "record":
      return `{ ${t.fields.map((f) => `${f.name}: ${givenTypeText(f.type)}`).join(", ")} }`;
    default:
      return t satisfies never;
  }
}

/** Where `value` is not of type `t`, as `[3].0 is …`; undefined when it is. `at` is the name of the value. */
export function misgiven(value: unknown, t: GivenType, at: string): string | undefined {
  const wrong = (): string => `${at} is ${JSON.stringify(value)?.slice(0, 60) ?? String(value)}, not ${givenTypeText(t)}`;
  const first = (found: readonly (string | undefined)[]): string | undefined => found.find((f) => f !== undefined);
  switch (t.k) {
    case "int":
      return Number.isSafeInteger(value) ? undefined : wrong();
    case "float":
      return typeof value === "number" ? undefined : wrong();
    case "bool":
      return typeof value === "boolean" ? undefined : wrong();
    case "string":
      return typeof value === "string" ? undefined : wrong();
    case "list":
      return Array.isArray(value) ? first(value.map((v, i) => misgiven(v, t.of, `${at}[${i}]`))) : wrong();
    case "tuple":
      if (!Array.isArray(value) || value.length !== t.items.length) return wrong();
      return first(t.items.map((item, i) => misgiven(value[i], item, `${at}.${i}`)));
    case "record": {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return wrong();
      const own = value as Readonly<Record<string, HostValue>>;
      const extra = Object.keys(own).find((name) => !t.fields.some((f) => f.name === name));
      if (extra !== undefined) return `${at} has the field ${extra}, which ${givenTypeText(t)} does not`;
      return first(
        t.fields.map((f) => (Object.hasOwn(own, f.name) ? misgiven(own[f.name], f.type, `${at}.${f.name}`) : `${at} has no ${f.name}`)),
      );
    }
    default:
      return t satisfies never;
  }
}
