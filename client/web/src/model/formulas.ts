/** The numbers of a convolution, each with its formula and the formula filled in. */

import { receptiveField, type Geometry } from "groupconv";

/** A quantity, how it is computed, and the same with this convolution's numbers. */
export interface Formula {
  readonly name: string;
  readonly formula: string;
  readonly filled: string;
  readonly value: string;
}

const count = new Intl.NumberFormat("en-US");
const times = (...factors: (number | string)[]) => factors.join(" · ");

/** The formulas of one step. Both axes have the same numbers unless a step works along one alone. */
export function formulasOf(g: Geometry): Formula[] {
  const axis = g.kernel[0]! > 1 ? 0 : 1;
  const [H, K, s, d] = [g.input[axis]!, g.kernel[axis]!, g.stride[axis]!, g.dilation[axis]!];
  const [low, high] = g.padding[axis]!;
  const r = g.outputPadding[axis]!;
  const extent: Omit<Formula, "name"> = g.transposed
    ? {
        formula: "(H − 1)·s − (p + p′) + d·(K − 1) + r + 1",
        filled: `(${H} − 1)·${s} − (${low} + ${high}) + ${d}·(${K} − 1) + ${r} + 1`,
        value: String(g.output[axis]),
      }
    : {
        formula: "⌊(H + p + p′ − d·(K − 1) − 1) / s⌋ + 1",
        filled: `⌊(${H} + ${low} + ${high} − ${d}·(${K} − 1) − 1) / ${s}⌋ + 1`,
        value: String(g.output[axis]),
      };
  const [C, M, groups] = [g.inChannels, g.outChannels, g.groups];
  const spatial = g.transposed ? g.input : g.output;
  const first = g.transposed ? `C · (M/g) · K · K` : `M · (C/g) · K · K`;
  const [outer, inner] = g.transposed ? [C, M] : [M, C];
  return [
    { name: "Output extent H′", ...extent },
    {
      name: "Weights",
      formula: first,
      filled: times(outer, groups > 1 ? `(${inner}/${groups})` : inner, ...g.kernel),
      value: count.format(g.weights),
    },
    {
      name: "Multiply-adds",
      formula: g.transposed ? "weights · H · W" : "weights · H′ · W′",
      filled: times(count.format(g.weights), ...spatial),
      value: count.format(g.multiplyAdds),
    },
    {
      name: "Receptive field",
      formula: g.transposed ? "⌊d·(K − 1) / s⌋ + 1" : "d·(K − 1) + 1",
      filled: g.transposed ? `⌊${d}·(${K} − 1) / ${s}⌋ + 1` : `${d}·(${K} − 1) + 1`,
      value: g.receptiveField.join(" × "),
    },
  ];
}

/** What the letters of the formulas stand for. */
export function symbolsOf(geometries: readonly Geometry[]): string {
  const letters = [
    "H, W: height and width",
    "K: kernel size",
    "s: stride",
    "p, p′: padding at both ends",
    "d: dilation",
  ];
  const transposed = geometries.some((g) => g.transposed) ? ["r: output padding"] : [];
  return (
    [...letters, ...transposed, "C: input channels", "M: filters", "g: groups", "H′, W′: of the output"].join("; ") +
    "."
  );
}

/** The sums of several steps. */
export function totalsOf(geometries: readonly Geometry[]): { name: string; value: string }[] {
  const sum = (of: (g: Geometry) => number) => count.format(geometries.reduce((total, g) => total + of(g), 0));
  return [
    { name: "Weights", value: sum((g) => g.weights) },
    { name: "Multiply-adds", value: sum((g) => g.multiplyAdds) },
    { name: "Receptive field", value: receptiveField(geometries).join(" × ") },
  ];
}
