/** Resident layers: `client.loadLayer(...)` returns one. */

import { create } from "@bufbuild/protobuf";
import { supportedInput } from "./convolution/arguments.js";
import { cutName } from "./convolution/cuts.js";
import type { Result } from "./convolution/report.js";
import { geometries } from "./convolution/steps.js";
import { InvalidArgumentError } from "./errors.js";
import type { CallOptions } from "./options.js";
import { ConvolutionService, ConvolveRequestSchema } from "./protocol/groupconv/v1/convolution_pb.js";
import { convertedTo } from "./tensors/convert.js";
import { isFloat } from "./tensors/dtypes.js";
import { asTensor, type Tensor, type TensorLike } from "./tensors/tensor.js";
import type { Calls } from "./transport/calls.js";
import type { LayerInfo } from "./wire/layers.js";
import { resultOf } from "./wire/requests.js";
import { tensorToWire } from "./wire/tensors.js";

/** What a layer needs of its client. */
export interface LayerHome {
  getLayer(name: string): Promise<Layer>;
  unloadLayer(name: string): Promise<void>;
}

/**
 * A layer on the server. A call runs the version that is currently loaded under the name.
 *
 * @example
 * const layer = await client.loadLayer("alexnet/conv2", w, { bias, spec: { padding: 2, groups: 2 } });
 * const y = await layer.forward(x);
 * await layer.unload();
 */
export class Layer {
  constructor(
    /** The server's description from when the layer was loaded. */
    readonly info: LayerInfo,
    private readonly calls: Calls,
    private readonly home: LayerHome,
  ) {}

  /** The layer's name. */
  get name(): string {
    return this.info.name;
  }

  /**
   * The layer's output (N, M, *spatial) for an input (N, C, *spatial); without a batch axis if the input has none. Floats
   * are converted to the layer's dtype.
   *
   * @throws InvalidArgumentError if the input does not fit the layer.
   */
  async forward(x: TensorLike, options: CallOptions = {}): Promise<Tensor> {
    return (await this.#run(x, options, false)).output;
  }

  /** The output, and a report of how the server computed it; see `forward`. */
  async run(x: TensorLike, options: CallOptions = {}): Promise<Result> {
    return this.#run(x, options, true);
  }

  /** The server's current description: version, bytes, requests, samples, seconds. */
  async statistics(): Promise<LayerInfo> {
    return (await this.home.getLayer(this.name)).info;
  }

  /** Removes the layer from the server. */
  async unload(): Promise<void> {
    await this.home.unloadLayer(this.name);
  }

  async #run(x: TensorLike, options: CallOptions, report: boolean): Promise<Result> {
    const { input, unbatched } = this.#checked(x);
    const request = create(ConvolveRequestSchema, {
      input: tensorToWire(input),
      layer: this.name,
      allowReordering: options.allowReordering ?? false,
      cut: cutName(options.cut),
      withoutReport: !report,
    });
    return resultOf(await this.calls.unary(ConvolutionService.method.convolve, request, options), unbatched);
  }

  #checked(x: TensorLike): { input: Tensor; unbatched: boolean } {
    const { dtype, specs, kernelShapes } = this.info;
    const [spec, kernel] = [specs[0]!, kernelShapes[0]!];
    const given = asTensor(x, "input");
    if (isFloat(given.dtype) && !isFloat(dtype))
      throw InvalidArgumentError.of("input.dtype", `integers, for a layer of ${dtype}`, given.dtype);
    let input = isFloat(given.dtype) ? convertedTo(given, dtype) : supportedInput(given, dtype);
    const unbatched = input.shape.length === kernel.length - 1;
    if (unbatched) input = input.reshape([1, ...input.shape]);
    const channels = spec.transposed ? kernel[0]! : kernel[1]! * spec.groups;
    if (input.shape.length === kernel.length && input.shape[1] !== channels) {
      throw InvalidArgumentError.of("input.shape[1]", `${channels} channels, as the layer has`, input.shape[1]);
    }
    geometries(specs, input.shape, kernelShapes);
    return { input, unbatched };
  }
}
