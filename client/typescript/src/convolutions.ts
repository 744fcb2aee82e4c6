/** The convolution functions of a client. Each makes steps of its arguments and has them run. */

import { depthwiseSeparableSteps, pointwise, spatiallySeparableSteps } from "./convolution/separable.js";
import { asSpec, type Step } from "./convolution/steps.js";
import { InvalidArgumentError } from "./errors.js";
import {
  callOptions,
  split,
  type CallOptions,
  type ConvOptions,
  type ConvolveOptions,
  type ConvTransposeOptions,
  type SeparableOptions,
} from "./options.js";
import { asTensor, type Tensor, type TensorLike } from "./tensors/tensor.js";

/**
 * Every kind of convolution by its name, with the defaults of torch.nn.functional.
 *
 * An input may lack the batch axis; then the output lacks it, too. Kernels and biases are converted to the dtype of a float
 * input.
 *
 * Every function rejects with an `InvalidArgumentError` that names the field, what was expected and what came, or with the
 * server's answer, the subclass of `GroupconvError` that stands for the gRPC status.
 */
export abstract class Convolutions {
  /** (N, C, L) * (M, C/g, K) -> (N, M, L'). */
  async conv1d(x: TensorLike, weight: TensorLike, options: ConvOptions = {}): Promise<Tensor> {
    return this.#conv(1, x, weight, options);
  }

  /**
   * (N, C, H, W) * (M, C/g, K, K) -> (N, M, H', W').
   *
   * @example
   * const y = await client.conv2d(x, w, { bias, padding: 2, groups: 2, activation: "relu" });
   */
  async conv2d(x: TensorLike, weight: TensorLike, options: ConvOptions = {}): Promise<Tensor> {
    return this.#conv(2, x, weight, options);
  }

  /** (N, C, D, H, W) * (M, C/g, K, K, K) -> (N, M, D', H', W'). */
  async conv3d(x: TensorLike, weight: TensorLike, options: ConvOptions = {}): Promise<Tensor> {
    return this.#conv(3, x, weight, options);
  }

  /** (N, C, L) * (C, M/g, K) -> (N, M, L'). */
  async convTranspose1d(x: TensorLike, weight: TensorLike, options: ConvTransposeOptions = {}): Promise<Tensor> {
    return this.#conv(1, x, weight, options, true);
  }

  /**
   * (N, C, H, W) * (C, M/g, K, K) -> (N, M, H', W').
   *
   * @example
   * const y = await client.convTranspose2d(x, w, { stride: 2, padding: 1, outputPadding: 1 }); // twice height and width
   */
  async convTranspose2d(x: TensorLike, weight: TensorLike, options: ConvTransposeOptions = {}): Promise<Tensor> {
    return this.#conv(2, x, weight, options, true);
  }

  /** (N, C, D, H, W) * (C, M/g, K, K, K) -> (N, M, D', H', W'). */
  async convTranspose3d(x: TensorLike, weight: TensorLike, options: ConvTransposeOptions = {}): Promise<Tensor> {
    return this.#conv(3, x, weight, options, true);
  }

  /** 1×1: (N, C, H, W) with a weight (M, C) or (M, C, 1, 1) -> (N, M, H, W). Larger kernels are refused. */
  async pointwiseConv2d(x: TensorLike, weight: TensorLike, options: ConvOptions = {}): Promise<Tensor> {
    return this.#conv(2, x, pointwise(weight, 2, "weight"), options);
  }

  /** One group per channel: (N, C, H, W) with a weight (C·multiplier, 1, K, K) -> (N, C·multiplier, H', W'). */
  async depthwiseConv2d(x: TensorLike, weight: TensorLike, options: ConvOptions = {}): Promise<Tensor> {
    return this.#conv(2, x, weight, { groups: channelsOf(x), ...options });
  }

  /**
   * A depthwise convolution, then a pointwise one: (N, C, H, W) -> (N, M, H', W').
   *
   * @param depthwiseWeight (C, 1, K, K), applied with the stride, padding and dilation.
   * @param pointwiseWeight (M, C) or (M, C, 1, 1), applied with the activation and the bias.
   */
  async depthwiseSeparableConv2d(
    x: TensorLike,
    depthwiseWeight: TensorLike,
    pointwiseWeight: TensorLike,
    options: SeparableOptions = {},
  ): Promise<Tensor> {
    const { spec, bias, call } = split(options, false, ["groups"], ["depthwiseBias", "depthwiseActivation"]);
    const { depthwiseBias = null, depthwiseActivation = null } = options;
    return this.output(
      x,
      depthwiseSeparableSteps(depthwiseWeight, pointwiseWeight, bias, spec, depthwiseBias, depthwiseActivation),
      call,
    );
  }

  /**
   * The rank-1 kernel column·rowᵀ on every channel, as K×1 then 1×K: (N, C, H, W) -> (N, C, H', W').
   *
   * @param column (K) for all channels, or (C, K) for each; so is `row`.
   */
  async spatiallySeparableConv2d(
    x: TensorLike,
    column: TensorLike,
    row: TensorLike,
    options: Omit<ConvOptions, "groups"> = {},
  ): Promise<Tensor> {
    const { spec, bias, call } = split(options, false, ["groups"]);
    return this.output(x, spatiallySeparableSteps(column, row, bias, spec, channelsOf(x)), call);
  }

  /** Any convolution: the rank is the weight's, all parameters are in `options.spec`. */
  async convolve(x: TensorLike, weight: TensorLike, options: ConvolveOptions = {}): Promise<Tensor> {
    const { bias = null, spec } = options;
    return this.output(x, [{ kernel: weight, bias, spec: asSpec(spec) }], callOptions(options));
  }

  /** Runs the steps and returns the output. */
  protected abstract output(x: TensorLike, steps: readonly Step[], call: CallOptions): Promise<Tensor>;

  #conv(
    rank: number,
    x: TensorLike,
    weight: TensorLike,
    options: ConvOptions | ConvTransposeOptions,
    transposed = false,
  ): Promise<Tensor> {
    const { spec, bias, call } = split(options, transposed);
    const kernel = asTensor(weight, "weight");
    if (kernel.shape.length !== rank + 2) {
      throw InvalidArgumentError.of("weight", `${rank + 2} dimensions for ${rank}-D`, kernel.shape);
    }
    return this.output(x, [{ kernel, bias, spec }], call);
  }
}

/** C of (N, C, H, W) or (C, H, W); 1 for other shapes, which are refused. */
function channelsOf(x: TensorLike): number {
  return asTensor(x, "input").shape.at(-3) ?? 1;
}
