// Pieces of text that all levels print in the same way: numbers, names and JSON that read back as what they were.
// Reading is in cursor.ts.

/** The text of a number that reads back as the same number: NaN, infinities and -0 included. */
export function numberText(value: number): string {
  return Object.is(value, -0) ? "-0" : String(value);
}

/** JSON in which numbers that JSON lacks are written as strings under the key `$number`. */
export function jsonText(value: unknown): string {
  return JSON.stringify(value, (_key, v: unknown) =>
    typeof v === "number" && (!Number.isFinite(v) || Object.is(v, -0)) ? { $number: numberText(v) } : v,
  );
}

/** Words that a name without quotes would be mistaken for. */
const reserved: ReadonlySet<string> = new Set(["true", "false", "NaN", "Infinity"]);

/** A name as it is, or quoted where it does not look like one. */
export function nameText(name: string): string {
  return /^[A-Za-z_][\w$]*(\.[\w$]+)*$/.test(name) && !reserved.has(name) ? name : JSON.stringify(name);
}

/** 1536 → "1.5 KiB". */
export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit] ?? ""}`;
}
