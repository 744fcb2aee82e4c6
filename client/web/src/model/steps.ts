/** The steps that the choices mean, and the same as one kernel, whose windows can be shown. */

import { ConvSpec, resolve, type Geometry, type Step } from "groupconv";
import { product, turned, type Kernel } from "./kernels";
import { kernelOf, type State } from "./state";

/** Steps that a server runs on an input (1, C, size, size). */
export function stepsOf(state: State): Step[] {
  const { variant, channels, filters, groups, stride, dilation, padding, paddingMode } = state;
  const spec = { stride, dilation, padding, paddingMode, groups };
  if (variant === "pointwise") {
    return [step(state.mixture, [filters, channels, 1, 1], { stride, padding: 0 })];
  }
  if (variant === "depthwiseSeparable") {
    return [depthwise(state, channels), step(state.mixture, [filters, channels, 1, 1], {})];
  }
  if (variant === "spatiallySeparable") {
    const [column, row] = [repeated(state.column, channels), repeated(state.row, channels)];
    const along = (axis: 0 | 1) => ({
      groups: channels,
      paddingMode,
      stride: only(axis, stride, 1),
      dilation: only(axis, dilation, 1),
      padding: padding === "same" ? padding : only(axis, padding, 0),
    });
    return [
      step(column, [channels, 1, state.column.length, 1], along(0)),
      step(row, [channels, 1, 1, state.row.length], along(1)),
    ];
  }
  const inGroup = Math.max(1, Math.floor(channels / groups));
  const outInGroup = Math.max(1, Math.floor(filters / groups));
  const kernel = kernelOf(state);
  if (variant === "transposed") {
    const cells = Array.from({ length: channels * outInGroup }, (_, i) => filter(kernel, i % outInGroup, inGroup));
    const shape = [channels, outInGroup, kernel.size, kernel.size];
    const { outputPadding } = state;
    return [step(cells.flat(), shape, { stride, dilation, padding, groups, transposed: true, outputPadding })];
  }
  if (variant === "depthwise") return [depthwise(state, filters)];
  const cells = Array.from({ length: filters * inGroup }, (_, i) =>
    filter(kernel, Math.floor(i / inGroup) % outInGroup, inGroup),
  );
  return [step(cells.flat(), [filters, inGroup, kernel.size, kernel.size], spec)];
}

/** The geometry of each step. Throws InvalidArgumentError where the choices do not fit. */
export function geometriesOf(state: State, steps: readonly Step[]): Geometry[] {
  let shape: readonly number[] = [1, state.channels, state.size, state.size];
  return steps.map(({ kernel, spec }) => {
    const geometry = resolve(spec as ConvSpec, shape, (kernel as { shape: readonly number[] }).shape);
    shape = geometry.outputShape;
    return geometry;
  });
}

/**
 * The weights with which an input channel goes into an output channel, over all steps: rows × columns of the window, or
 * null if it is in another group.
 */
export function weightsBetween(state: State, input: number, output: number): readonly number[] | null {
  const { variant, channels, filters, groups } = state;
  const kernel = kernelOf(state);
  switch (variant) {
    case "pointwise":
      return [state.mixture[output * channels + input]!];
    case "depthwiseSeparable":
      return kernel.cells.map((v) => v * state.mixture[output * channels + input]!);
    case "spatiallySeparable":
      return input === output ? product(state) : null;
    case "depthwise":
      return Math.floor((output * channels) / filters) === input
        ? turned(kernel, output % (filters / channels)).cells
        : null;
    default: {
      const [inGroup, outInGroup] = [channels / groups, filters / groups];
      if (Math.floor(input / inGroup) !== Math.floor(output / outInGroup)) return null;
      return filter(kernel, output % outInGroup, inGroup);
    }
  }
}

/** A filter is the kernel turned, divided by the channels that it sums. */
function filter(kernel: Kernel, turns: number, summed: number): number[] {
  return turned(kernel, turns).cells.map((v) => v / summed);
}

function depthwise(state: State, filters: number): Step {
  const kernel = kernelOf(state);
  const multiplier = Math.max(1, Math.floor(filters / state.channels));
  const cells = Array.from({ length: filters }, (_, m) => turned(kernel, m % multiplier).cells);
  const { stride, dilation, padding, paddingMode, channels } = state;
  const spec = { stride, dilation, padding, paddingMode, groups: channels };
  return step(cells.flat(), [filters, 1, kernel.size, kernel.size], spec);
}

function step(cells: readonly number[], shape: number[], spec: ConstructorParameters<typeof ConvSpec>[0]): Step {
  return { kernel: { data: Float32Array.from(cells), shape }, spec: new ConvSpec(spec) };
}

function only(axis: 0 | 1, value: number, other: number): [number, number] {
  return axis === 0 ? [value, other] : [other, value];
}

function repeated(values: readonly number[], times: number): number[] {
  return Array.from({ length: times }, () => values).flat();
}
