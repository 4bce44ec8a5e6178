// The layout that a slicing policy gives, as the benches read it.

import { layoutOf, type LayoutPicture } from "../../compiler/cli/layout.ts";
import { shapeFunction } from "./ours.ts";

/** Pictures of the `paper` policy, in the order of the visual sequence. */
export function paperPictures(width: number, height: number): readonly LayoutPicture[] {
  const layout = layoutOf({ layout: shapeFunction("graphs/slicing.uhd", "paper", [width, height]) });
  if (layout === undefined) throw new Error("graphs/slicing.uhd: paper gives no layout");
  return layout.pictures;
}
