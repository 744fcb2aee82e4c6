/** Which input pixels make an output pixel, and with which numbers. */

import type { Geometry, PaddingMode, Tensor } from "groupconv";
import { weightsBetween } from "./steps";
import type { State } from "./state";

/** One axis of the window of an output: for each tap of the kernel the input's index; null if the tap meets none. */
export type Taps = readonly (number | null)[];

/** What an output pixel is made of. */
export interface WindowAt {
  readonly rows: Taps;
  readonly columns: Taps;
  readonly channels: readonly Part[];
  /** Sum of all products. */
  readonly sum: number;
}

/** What one input channel gives. */
export interface Part {
  readonly channel: number;
  readonly weights: readonly number[];
  /** Input values, row by row; null where the tap meets no input (transposed). */
  readonly values: readonly (number | null)[];
  readonly sum: number;
}

/** The step that has the window along an axis (0 down, 1 across). */
function stepAlong(geometries: readonly Geometry[], axis: number): Geometry {
  return geometries.find((g) => g.kernel[axis]! > 1) ?? geometries[0]!;
}

/** The inputs that an output at `at` reads along an axis. Indices outside the input lie in the padding. */
export function tapsAt(geometries: readonly Geometry[], axis: number, at: number): Taps {
  const g = stepAlong(geometries, axis);
  const [kernel, stride, dilation, [low]] = [g.kernel[axis]!, g.stride[axis]!, g.dilation[axis]!, g.padding[axis]!];
  return Array.from({ length: kernel }, (_, k) => {
    if (!g.transposed) return at * stride - low + k * dilation;
    const index = at + low - k * dilation;
    const input = index / stride;
    return index % stride === 0 && input >= 0 && input < g.input[axis]! ? input : null;
  });
}

/** The window of output (channel, y, x) with its numbers. */
export function windowAt(
  state: State,
  input: Tensor,
  geometries: readonly Geometry[],
  output: { channel: number; y: number; x: number },
): WindowAt {
  const [rows, columns] = [tapsAt(geometries, 0, output.y), tapsAt(geometries, 1, output.x)];
  const size = state.size;
  const data = input.numbers();
  const channels: Part[] = [];
  for (let channel = 0; channel < state.channels; channel++) {
    const weights = weightsBetween(state, channel, output.channel);
    if (weights === null) continue;
    const values = rows.flatMap((y) =>
      columns.map((x) => {
        if (y === null || x === null) return null;
        const [row, column] = [filled(y, size, state.paddingMode), filled(x, size, state.paddingMode)];
        return row === null || column === null ? 0 : data[(channel * size + row) * size + column]!;
      }),
    );
    const sum = values.reduce<number>((total, value, i) => total + (value ?? 0) * weights[i]!, 0);
    channels.push({ channel, weights, values, sum });
  }
  return { rows, columns, channels, sum: channels.reduce((total, part) => total + part.sum, 0) };
}

/** The index of the input that fills an index in the padding; null stands for zero. */
function filled(at: number, size: number, mode: PaddingMode): number | null {
  if (at >= 0 && at < size) return at;
  switch (mode) {
    case "zeros":
      return null;
    case "replicate":
      return at < 0 ? 0 : size - 1;
    case "circular":
      return (at + size) % size;
    case "reflect":
      return at < 0 ? -at : 2 * (size - 1) - at;
  }
}

/** The output whose window has its middle next to an input index. */
export function outputNear(geometries: readonly Geometry[], axis: number, at: number): number {
  const g = stepAlong(geometries, axis);
  const [stride, [low], extent] = [g.stride[axis]!, g.padding[axis]!, geometries.at(-1)!.output[axis]!];
  const reach = (g.dilation[axis]! * (g.kernel[axis]! - 1)) / 2;
  const found = g.transposed ? at * stride - low + reach : (at + low - reach) / stride;
  return Math.min(extent - 1, Math.max(0, Math.round(found)));
}
