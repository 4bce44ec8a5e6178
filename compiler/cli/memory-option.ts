// --memory of uhdc train and uhdc explain --train: an amount of bytes as people write it. Reads nothing.

import { InvalidArgumentError, Option } from "commander";

const units: Readonly<Record<string, number>> = {
  b: 1,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
};

/** "2GiB" → 2147483648, "500 MB" → 500000000. Throws InvalidArgumentError. */
export function memoryBytes(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?([kmgt]?i?b)$/i.exec(text.trim()) ?? [];
  const bytes = Math.floor(Number(number) * (units[unit?.toLowerCase() ?? ""] ?? NaN));
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new InvalidArgumentError(`expected an amount such as 2GiB, 800MiB or 500MB, found "${text}"`);
}

export function memoryOption(): Option {
  return new Option(
    "--memory <amount>",
    "what a step may hold on the device, as in 2GiB: values of the forward pass are computed again until it fits",
  ).argParser(memoryBytes);
}
