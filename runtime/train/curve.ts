// The loss of a training as a picture: each step, and a running mean over it. Letters are drawn as lines here, so that the
// picture is the same on machines with and without fonts. Does not decide when it is drawn.

import { loadSharp } from "../images/decode.ts";
import type { StepMetrics } from "./metrics.ts";

const width = 960;
const height = 540;
const margin = { left: 80, right: 24, top: 24, bottom: 56 };

/** A PNG file. */
export async function lossCurve(steps: readonly Pick<StepMetrics, "step" | "loss">[]): Promise<Uint8Array> {
  const sharp = await loadSharp();
  return sharp(Buffer.from(lossCurveSvg(steps)))
    .png()
    .toBuffer();
}

export function lossCurveSvg(steps: readonly Pick<StepMetrics, "step" | "loss">[]): string {
  const shown = steps.filter(({ loss }) => Number.isFinite(loss));
  const losses = shown.map((s) => s.loss);
  const low = Math.min(0, ...losses);
  const high = losses.reduce((most, loss) => Math.max(most, loss), low) || 1;
  const first = shown[0]?.step ?? 0;
  const last = Math.max(shown.at(-1)?.step ?? 0, first + 1);
  const x = (step: number): number => margin.left + ((step - first) / (last - first)) * (width - margin.left - margin.right);
  const y = (loss: number): number => height - margin.bottom - ((loss - low) / (high - low)) * (height - margin.top - margin.bottom);
  const marks = [0, 0.25, 0.5, 0.75, 1];
  const grid = marks.map((f) => {
    const [gx, gy] = [first + f * (last - first), low + f * (high - low)];
    return [
      `<path d="M${margin.left} ${round(y(gy))}H${width - margin.right}" stroke="#ddd"/>`,
      letters(numberText(gy), margin.left - 10, y(gy) - 7, "right"),
      letters(String(Math.round(gx)), x(gx), height - margin.bottom + 14, f === 1 ? "right" : "middle"),
    ].join("");
  });
  const line = (points: readonly { readonly step: number; readonly loss: number }[], style: string): string =>
    points.length === 0
      ? ""
      : `<path d="M${points.map((p) => `${round(x(p.step))} ${round(y(p.loss))}`).join("L")}" fill="none" ${style}/>`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="100%" height="100%" fill="#fff"/>`,
    ...grid,
    line(thinned(shown), 'stroke="#9bbfe0" stroke-width="1"'),
    line(thinned(smooth(shown)), 'stroke="#14507f" stroke-width="2.5"'),
    "</svg>",
  ].join("");
}

/** A running mean over a fiftieth of the steps. */
function smooth(steps: readonly Pick<StepMetrics, "step" | "loss">[]): readonly { readonly step: number; readonly loss: number }[] {
  const share = 1 / Math.max(1, steps.length / 50);
  let mean = steps[0]?.loss ?? 0;
  return steps.map(({ step, loss }) => ({ step, loss: (mean += (loss - mean) * share) }));
}

/** No more points than can be seen. */
function thinned<T>(points: readonly T[]): readonly T[] {
  const every = Math.ceil(points.length / 2000);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

const round = (n: number): number => Math.round(n * 10) / 10;
const numberText = (n: number): string => (n !== 0 && Math.abs(n) < 0.001 ? n.toExponential(1) : String(Number(n.toPrecision(3))));

/** Characters on a grid 4 wide and 7 high, as lines. */
const glyphs: Readonly<Record<string, string>> = {
  "0": "M0 0H4V7H0Z",
  "1": "M1 1L2.5 0V7",
  "2": "M0 0H4V3.5H0V7H4",
  "3": "M0 0H4V7H0M1 3.5H4",
  "4": "M0 0V3.5H4M4 0V7",
  "5": "M4 0H0V3.5H4V7H0",
  "6": "M4 0H0V7H4V3.5H0",
  "7": "M0 0H4L1.5 7",
  "8": "M0 0H4V7H0ZM0 3.5H4",
  "9": "M4 3.5H0V0H4V7H0",
  ".": "M2 6.5V7",
  "-": "M0.5 3.5H3.5",
  "+": "M0.5 3.5H3.5M2 2V5",
  e: "M0 5H4V3H0V7H4",
};

function letters(text: string, at: number, top: number, align: "middle" | "right"): string {
  const step = 12;
  const begin = at - (align === "right" ? text.length * step : (text.length * step) / 2);
  return [...text]
    .map(
      (c, i) =>
        `<path transform="translate(${round(begin + i * step)} ${round(top)}) scale(2)" d="${glyphs[c] ?? ""}" fill="none" stroke="#444" stroke-width="0.8"/>`,
    )
    .join("");
}
