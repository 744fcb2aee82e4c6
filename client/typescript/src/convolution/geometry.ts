/**
 * The shapes of one convolution, and its numbers.
 *
 * Letters: N batch, C input channels, M output channels, g groups; per axis H input, K kernel, s stride, p padding
 * (low, high), d dilation, r output padding, H' output.
 *
 *     convolution:  H' = floor((H + p_lo + p_hi - d·(K-1) - 1) / s) + 1
 *     transposed:   H' = (H-1)·s - (p_lo + p_hi) + d·(K-1) + r + 1,   0 <= r < max(s, d)
 *
 * Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).
 */

import { InvalidArgumentError } from "../errors.js";
import { sizeOf } from "../tensors/tensor.js";
import { tuple } from "../text.js";
import { checkPaddingMode, effectiveExtent, resolvePadding } from "./padding.js";
import { MAX_PARAMETER, MAX_RANK, perAxis, type Activation, type ConvSpec, type Pair } from "./spec.js";
import { receptiveField, type Window } from "./windows.js";

type Shape = readonly number[];

interface Extents {
  readonly batch: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly input: Shape;
  readonly kernel: Shape;
  readonly output: Shape;
  readonly stride: Shape;
  readonly padding: readonly Pair[];
  readonly dilation: Shape;
  readonly outputPadding: Shape;
}

/** A `ConvSpec` applied to shapes, with one value per axis for each parameter. `resolve` makes it. */
export class Geometry {
  readonly batch: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly groups: number;
  /** Spatial extents of the input, one per axis. */
  readonly input: Shape;
  readonly kernel: Shape;
  readonly output: Shape;
  readonly stride: Shape;
  /** Low and high padding per axis. */
  readonly padding: readonly Pair[];
  readonly dilation: Shape;
  readonly outputPadding: Shape;
  readonly transposed: boolean;

  constructor(
    readonly spec: ConvSpec,
    e: Extents,
  ) {
    this.batch = e.batch;
    this.inChannels = e.inChannels;
    this.outChannels = e.outChannels;
    this.groups = spec.groups;
    this.input = e.input;
    this.kernel = e.kernel;
    this.output = e.output;
    this.stride = e.stride;
    this.padding = e.padding;
    this.dilation = e.dilation;
    this.outputPadding = e.outputPadding;
    this.transposed = spec.transposed;
  }

  /** (N, C, H, …). */
  get inputShape(): number[] {
    return [this.batch, this.inChannels, ...this.input];
  }

  /** (N, M, H', …). */
  get outputShape(): number[] {
    return [this.batch, this.outChannels, ...this.output];
  }

  /** (M, C/g, K, …), transposed (C, M/g, K, …). */
  get weightShape(): number[] {
    const [first, second] = this.transposed ? [this.inChannels, this.outChannels] : [this.outChannels, this.inChannels];
    return [first, second / this.groups, ...this.kernel];
  }

  /** Number of kernel weights without the bias: M·(C/g)·ΠK. */
  get weights(): number {
    return sizeOf(this.weightShape);
  }

  /** Multiply-adds of the whole batch, including taps on padding: N·M·(C/g)·ΠK·ΠH', transposed N·C·(M/g)·ΠK·ΠH. */
  get multiplyAdds(): number {
    return this.batch * this.weights * sizeOf(this.transposed ? this.input : this.output);
  }

  /** Its window, for `receptiveField`. */
  get windows(): readonly Window[] {
    return [{ kernel: this.kernel, stride: this.stride, dilation: this.dilation, transposed: this.transposed }];
  }

  /** Input elements per axis that one output depends on, from the first to the last. */
  get receptiveField(): number[] {
    return receptiveField(this);
  }

  /** The usual name of this kind of convolution, such as `dilated depthwise`. */
  get variant(): string {
    const depthwise = this.groups === this.inChannels && this.groups > 1;
    const words = [
      this.dilation.some((d, i) => d > 1 && this.kernel[i]! > 1) ? "dilated" : "",
      this.transposed ? "transposed" : "",
      depthwise ? "depthwise" : this.groups > 1 ? "grouped" : "",
      this.kernel.every((k) => k === 1) ? "pointwise" : "",
    ];
    return words.filter(Boolean).join(" ") || "standard";
  }
}

/**
 * The geometry of a spec on an input (N, C, *spatial) and a weight (M, C/g, *kernel), transposed (C, M/g, *kernel).
 *
 * Parameters without effect are normalized: the stride of an axis with one output, the dilation of one tap. The batch may
 * be 0; every other extent is at least 1.
 *
 * @throws InvalidArgumentError if the shapes do not fit the spec; it names the field, what was expected and what came.
 */
export function resolve(spec: ConvSpec, inputShape: Shape, weightShape: Shape): Geometry {
  const x = checkedShape("input.shape", inputShape, true);
  const w = checkedShape("kernel.shape", weightShape, false);
  const rank = w.length - 2;
  if (rank < 1 || rank > MAX_RANK) {
    throw InvalidArgumentError.of("kernel.shape", `3 to ${MAX_RANK + 2} dimensions (channels and 1-D to 3-D)`, w);
  }
  if (x.length !== w.length) {
    throw InvalidArgumentError.of("input.shape", `${w.length} dimensions, as many as the kernel ${tuple(w)}`, x);
  }
  const channels = x[1]!;
  if (channels % spec.groups)
    throw InvalidArgumentError.of("groups", `a divisor of the ${channels} input channels`, spec.groups);
  const outChannels = outputChannels(spec, channels, w);
  checkSlopes(spec.activation, outChannels);

  const [input, kernel] = [x.slice(2), w.slice(2)];
  let stride = perAxis("stride", spec.stride, rank);
  const given = perAxis("dilation", spec.dilation, rank);
  const dilation = given.map((d, i) => (kernel[i]! > 1 ? d : 1));
  const reach = kernel.map((k, i) => effectiveExtent(k, dilation[i]!));
  const outPad = perAxis("output_padding", spec.outputPadding, rank);
  const padding = resolvePadding(spec, input, reach, stride, outPad);
  const slack = input.map((h, i) => h + padding[i]![0] + padding[i]![1] - reach[i]!);
  let output: number[];
  if (spec.transposed) {
    checkOutputPadding(outPad, stride, given);
    output = input.map((h, i) => (h - 1) * stride[i]! - padding[i]![0] - padding[i]![1] + reach[i]! + outPad[i]!);
  } else {
    checkPaddingMode(spec.paddingMode, input, padding);
    output = slack.map((n, i) => Math.floor(n / stride[i]!) + 1);
    // with one output, the smallest stride that still gives one output is the same convolution
    stride = stride.map((s, i) => Math.min(s, Math.max(1, slack[i]! + 1)));
  }
  checkOutput(spec.transposed, output, input, padding, reach);
  return new Geometry(spec, {
    batch: x[0]!,
    inChannels: channels,
    outChannels,
    input,
    kernel,
    output,
    stride,
    padding,
    dilation,
    outputPadding: outPad,
  });
}

function checkedShape(field: string, shape: Shape, batch: boolean): number[] {
  if (!Array.isArray(shape) || !shape.every((extent) => Number.isInteger(extent))) {
    throw InvalidArgumentError.of(field, "a shape, one integer per dimension", shape);
  }
  shape.forEach((extent: number, i) => {
    const least = batch && i === 0 ? 0 : 1;
    if (extent < least || extent > MAX_PARAMETER) {
      throw InvalidArgumentError.of(`${field}[${i}]`, `an extent from ${least} to ${MAX_PARAMETER}`, extent);
    }
  });
  return [...(shape as number[])];
}

function outputChannels(spec: ConvSpec, channels: number, w: Shape): number {
  const g = spec.groups;
  if (spec.transposed) {
    if (w[0] !== channels) {
      throw InvalidArgumentError.of("kernel.shape[0]", `the ${channels} input channels (transposed)`, w[0]);
    }
    return w[1]! * g;
  }
  if (w[1] !== channels / g) {
    throw InvalidArgumentError.of(
      "kernel.shape[1]",
      `${channels / g} (${channels} input channels / ${g} groups)`,
      w[1],
    );
  }
  if (w[0]! % g) throw InvalidArgumentError.of("groups", `a divisor of the ${w[0]} output channels`, g);
  return w[0]!;
}

function checkSlopes(activation: Activation | null, outChannels: number): void {
  if (activation !== null && ![0, 1, outChannels].includes(activation.slope.length)) {
    throw InvalidArgumentError.of(
      "activation.slope",
      `1 or ${outChannels} values (output channels)`,
      activation.slope.length,
    );
  }
}

function checkOutputPadding(outPad: Shape, stride: Shape, dilation: Shape): void {
  outPad.forEach((r, axis) => {
    const [s, d] = [stride[axis]!, dilation[axis]!];
    if (r >= Math.max(s, d)) {
      throw InvalidArgumentError.of(`output_padding[${axis}]`, `less than max(stride ${s}, dilation ${d})`, r);
    }
  });
}

function checkOutput(transposed: boolean, output: Shape, input: Shape, padding: readonly Pair[], reach: Shape): void {
  output.forEach((extent, axis) => {
    if (extent >= 1) return;
    const pair = padding[axis]!;
    if (transposed) throw InvalidArgumentError.of(`padding[${axis}]`, "padding that leaves at least one output", pair);
    const most = input[axis]! + pair[0] + pair[1];
    throw InvalidArgumentError.of(
      `kernel.shape[${axis + 2}]`,
      `an effective extent of at most ${most}, the padded input`,
      reach[axis],
    );
  });
}
