/** Separable and pointwise convolutions as steps. */

import { InvalidArgumentError } from "../errors.js";
import { DTYPES } from "../tensors/dtypes.js";
import { asTensor, Tensor, type TensorLike } from "../tensors/tensor.js";
import {
  asActivation,
  ConvSpec,
  paddingPairs,
  perAxis,
  type Activation,
  type ActivationKind,
  type Pair,
} from "./spec.js";
import type { Step } from "./steps.js";

/**
 * A pointwise kernel with all its axes: (M, C) or (M, C, 1, …) as (M, C, 1, …).
 *
 * @throws InvalidArgumentError if the kernel has another shape.
 */
export function pointwise(kernel: TensorLike, rank: number, field: string): Tensor {
  const found = asTensor(kernel, field);
  const ones = Array<number>(rank).fill(1);
  if (found.shape.length === 2) return found.reshape([...found.shape, ...ones]);
  if (found.shape.length !== rank + 2 || found.shape.slice(2).some((extent) => extent !== 1)) {
    const expected = `shape (M, C) or (M, C${", 1".repeat(rank)}), for a pointwise convolution`;
    throw InvalidArgumentError.of(field, expected, found.shape);
  }
  return found;
}

/** The two steps of a depthwise-separable convolution. The spec is of both together; its groups are replaced. */
export function depthwiseSeparableSteps(
  depthwiseWeight: TensorLike,
  pointwiseWeight: TensorLike,
  bias: TensorLike | null,
  spec: ConvSpec,
  depthwiseBias: TensorLike | null,
  depthwiseActivation: ActivationKind | Activation | null,
): Step[] {
  const depthwise = asTensor(depthwiseWeight, "depthwise_weight");
  if (depthwise.shape.length < 3)
    throw InvalidArgumentError.of("depthwise_weight", "shape (C, 1, *kernel)", depthwise.shape);
  const first = spec.with({ groups: depthwise.shape[0]!, activation: asActivation(depthwiseActivation) });
  const { activation, exact, math } = spec;
  return [
    { kernel: depthwise, bias: depthwiseBias, spec: first },
    {
      kernel: pointwise(pointwiseWeight, depthwise.shape.length - 2, "pointwise_weight"),
      bias,
      spec: new ConvSpec({ activation, exact, math }),
    },
  ];
}

/**
 * The two steps of a spatially separable convolution: K×1 and 1×K, with 2K multiplications in place of K².
 *
 * @param column (K) for all channels, or (C, K) for each; so is `row`.
 * @param spec 2-D. Each step takes its own axis of stride, padding and dilation; groups are replaced.
 */
export function spatiallySeparableSteps(
  column: TensorLike,
  row: TensorLike,
  bias: TensorLike | null,
  spec: ConvSpec,
  channels: number,
): Step[] {
  const [stride, dilation] = [perAxis("stride", spec.stride, 2), perAxis("dilation", spec.dilation, 2)];
  return [column, row].map((taps, axis): Step => {
    const only = (values: readonly number[], other: number) => values.map((v, a) => (a === axis ? v : other));
    const pairs = typeof spec.padding === "string" ? undefined : paddingPairs(spec.padding, 2);
    const step = spec.with({
      stride: only(stride, 1),
      dilation: only(dilation, 1),
      padding: pairs?.map((pair, a): Pair => (a === axis ? pair : [0, 0])) ?? spec.padding,
      groups: channels,
      activation: axis === 1 ? spec.activation : null,
    });
    return { kernel: repeated(taps, axis, channels), bias: axis === 1 ? bias : null, spec: step };
  });
}

function repeated(taps: TensorLike, axis: number, channels: number): Tensor {
  const field = axis === 0 ? "column" : "row";
  const kernel = asTensor(taps, field);
  const each = kernel.shape.length === 2 && kernel.shape[0] === channels;
  if (kernel.shape.length !== 1 && !each) {
    throw InvalidArgumentError.of(field, `shape (K,) or (${channels}, K)`, kernel.shape);
  }
  const length = kernel.shape.at(-1)!;
  const shape = axis === 0 ? [channels, 1, length, 1] : [channels, 1, 1, length];
  if (each) return kernel.reshape(shape);
  const data = new DTYPES[kernel.dtype].array(channels * length);
  for (let c = 0; c < channels; c++) (data as Float32Array).set(kernel.data as Float32Array, c * length);
  return new Tensor(data, shape, kernel.dtype);
}
