// What `uhdc run --verify` found, as data and as text. Compares nothing (verifying.ts does).

import { typeText } from "../../runtime/tensor.ts";
import { tableText } from "./terminal.ts";

export interface VerifiedValue {
  /** The operation whose result it is: the last that its kernel does for it. */
  readonly op: string;
  /** `file:line:column`. */
  readonly at: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** The largest difference, as a share of the largest number there; Infinity where one is NaN or infinite and the other is not. */
  readonly error: number;
  /** What the error of this dtype may be. */
  readonly limit: number;
}

export const isWrong = ({ error, limit }: VerifiedValue): boolean => !(error <= limit);

/** The verdict, and the values with the largest errors as shares of what they may be. */
export function verificationText(values: readonly VerifiedValue[]): string {
  const wrong = values.filter(isWrong);
  const first = wrong[0];
  const share = ({ error, limit }: VerifiedValue): number => (error === 0 ? 0 : error / limit);
  const shown = (wrong.length > 0 ? wrong : values.toSorted((a, b) => share(b) - share(a))).slice(0, 8);
  const cells = shown.map((v) => [v.error.toExponential(1), v.limit.toExponential(1), v.op, typeText(v.dtype, v.shape), v.at]);
  const verdict =
    first === undefined
      ? `verified: what kernels wrote, ${values.length} values, is what the references give; the largest errors, as shares of the largest number:`
      : `wrong: ${wrong.length} of ${values.length} values are not what the references make of what the kernels read; the first is of ${first.op} at ${first.at}:`;
  return `${verdict}\n${tableText([["error", "limit", "operation", "type", "from"], ...cells], [0, 1])}`;
}
