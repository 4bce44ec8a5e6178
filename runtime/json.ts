// What parsed JSON that is not trusted needs beside `JSON.parse`. Does not parse.

/**
 * Keys that occur twice in one object of `text`, which JSON.parse keeps silent about. `text` must be valid JSON.
 * Keys are compared as written, after their escapes are read.
 */
export function repeatedKeys(text: string): readonly string[] {
  const repeated: string[] = [];
  /** For each open bracket: the keys so far of an object, undefined for a list. */
  const open: (Set<string> | undefined)[] = [];
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case "{":
        open.push(new Set());
        expectKey = true;
        break;
      case "[":
        open.push(undefined);
        expectKey = false;
        break;
      case "}":
      case "]":
        open.pop();
        expectKey = false;
        break;
      case ",":
        expectKey = open.at(-1) !== undefined;
        break;
      case '"': {
        const start = i++;
        while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
        const keys = open.at(-1);
        if (!expectKey || keys === undefined) break;
        const key = JSON.parse(text.slice(start, i + 1)) as string;
        if (keys.has(key)) repeated.push(key);
        keys.add(key);
        expectKey = false;
        break;
      }
    }
  }
  return repeated;
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
