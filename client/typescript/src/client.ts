/** The client of a server; `connect` makes one. */

import { create } from "@bufbuild/protobuf";
import { checkedSteps, prepare, readySteps, supported } from "./convolution/arguments.js";
import type { Plan } from "./convolution/plan.js";
import type { Result } from "./convolution/report.js";
import type { ConvSpec, SpecOptions } from "./convolution/spec.js";
import { asSpec, type Step } from "./convolution/steps.js";
import { DataLossError, InvalidArgumentError } from "./errors.js";
import { Layer } from "./layer.js";
import { NetworkClient } from "./networks/client.js";
import { splitStream, type CallOptions, type StreamConvOptions, type StreamOptions } from "./options.js";
import {
  ClusterService,
  GetClusterRequestSchema,
  type GetClusterResponse,
} from "./protocol/groupconv/v1/cluster_pb.js";
import { ConvolutionService } from "./protocol/groupconv/v1/convolution_pb.js";
import {
  GetLayerRequestSchema,
  LayerService,
  ListLayersRequestSchema,
  UnloadLayerRequestSchema,
  type Layer as LayerMessage,
} from "./protocol/groupconv/v1/layer_pb.js";
import { rowsOf, type StreamSource } from "./streaming/rows.js";
import { BandStream } from "./streaming/stream.js";
import { Transfer } from "./streaming/transfer.js";
import type { DType } from "./tensors/dtypes.js";
import { asTensor, type Tensor, type TensorLike } from "./tensors/tensor.js";
import type { CallLimits } from "./transport/calls.js";
import { layerFromWire, loadMessages, type LayerInfo } from "./wire/layers.js";
import { convolveRequest, planRequest, resultOf } from "./wire/requests.js";
import { planFromWire } from "./wire/specs.js";

/** Options of `Client.plan`. */
export interface PlanOptions extends CallOptions {
  /** The parameters of one convolution; steps have their own. */
  spec?: ConvSpec | SpecOptions;
  /** Dtype of input and kernels. Default: that of the first kernel, or float32 if there are only shapes. */
  dtype?: DType;
}

/** Options of `Client.loadLayer`. */
export interface LoadOptions extends CallLimits {
  /** A float dtype to convert the weights to; without it they stay as they are. */
  dtype?: DType;
  /** Shapes (N, C, *spatial) for which the workers prepare now, rather than at the first request. */
  inputs?: readonly (readonly number[])[];
}

/**
 * A client of a groupconv server: the functions of `Convolutions`, `run` for several steps with a report, `plan`, resident
 * layers, networks, streams and `status`. Close it in the end.
 */
export class Client extends NetworkClient {
  /** The server's address. */
  get target(): string {
    return this.calls.target;
  }

  /**
   * Runs steps in one request, and reports how the server computed them.
   *
   * @param x (N, C, *spatial), or (C, *spatial) for one sample.
   * @param steps at least one; the output of each is the input of the next.
   * @throws InvalidArgumentError if an argument is invalid; it names the field, what was expected and what came.
   */
  async run(x: TensorLike, steps: readonly Step[], options: CallOptions = {}): Promise<Result> {
    return this.#run(x, steps, options, true);
  }

  /**
   * How the server would cut a convolution, or steps, without running them. `String(plan)` shows tables.
   *
   * @param inputShape (N, C, *spatial).
   * @param weight the kernel's shape, or steps.
   * @throws InvalidArgumentError if the shapes do not fit.
   */
  async plan(
    inputShape: readonly number[],
    weight: readonly number[] | readonly Step[],
    options: PlanOptions = {},
  ): Promise<Plan> {
    let shapes: (readonly number[])[];
    let specs: ConvSpec[];
    let dtype: string = options.dtype ?? "float32";
    if (isSteps(weight)) {
      if (options.spec !== undefined)
        throw InvalidArgumentError.of("spec", "none with steps, which have their own", options.spec);
      const kernels = weight.map((step, i) => asTensor(step.kernel, `steps[${i}].kernel`));
      shapes = kernels.map((kernel) => kernel.shape);
      specs = weight.map((step) => asSpec(step.spec));
      dtype = options.dtype ?? supported("steps[0].kernel", kernels[0]!).dtype;
    } else {
      shapes = [weight];
      specs = [asSpec(options.spec)];
    }
    return this.planSteps(inputShape, shapes, specs, { ...options, dtype: dtype as DType });
  }

  /** The plan of several steps by their shapes; one shape and one spec for each step. */
  async planSteps(
    inputShape: readonly number[],
    weightShapes: readonly (readonly number[])[],
    specs: readonly (ConvSpec | SpecOptions)[],
    options: Omit<PlanOptions, "spec"> = {},
  ): Promise<Plan> {
    if (specs.length !== weightShapes.length) {
      throw InvalidArgumentError.of("specs", `${weightShapes.length}, one for each weight shape`, specs.length);
    }
    const request = planRequest(inputShape, weightShapes, specs.map(asSpec), options.dtype ?? "float32", options);
    const { plan } = await this.calls.unary(ConvolutionService.method.planConvolution, request, options);
    if (!plan) throw new DataLossError("the server's answer has no plan");
    return planFromWire(plan);
  }

  /**
   * Loads a convolution's weights on the server, where the workers prepare them. If the name exists, this loads a new
   * version, which later requests use. Not in browsers: weights travel as a stream.
   *
   * @param name segments of letters, digits, '.', '_' and '-' with '/' between them, such as "alexnet/conv2".
   * @param weight (M, C/g, *kernel); transposed: (C, M/g, *kernel).
   * @throws ResourceExhaustedError if the server's layers would take more memory than it allows.
   */
  async loadLayer(
    name: string,
    weight: TensorLike,
    options: LoadOptions & { bias?: TensorLike | null; spec?: ConvSpec | SpecOptions } = {},
  ): Promise<Layer> {
    const { bias = null, spec } = options;
    return this.loadLayerSteps(name, [{ kernel: weight, bias, spec: asSpec(spec) }], options);
  }

  /** Loads a layer of several steps, each on the output of the one before; see `loadLayer`. */
  async loadLayerSteps(name: string, steps: readonly Step[], options: LoadOptions = {}): Promise<Layer> {
    checkName(name);
    const messages = loadMessages(name, steps, options.dtype, options.inputs ?? []);
    const { layer } = await this.calls.upload(LayerService.method.loadLayer, messages(), options);
    return this.#layer(layer);
  }

  /** A layer that is already on the server; rejects with a `NotFoundError` if there is none of this name. */
  async getLayer(name: string, limits: CallLimits = {}): Promise<Layer> {
    checkName(name);
    const { layer } = await this.calls.unary(
      LayerService.method.getLayer,
      create(GetLayerRequestSchema, { name }),
      limits,
    );
    return this.#layer(layer);
  }

  /** The server's descriptions of all layers, sorted by name. */
  async listLayers(limits: CallLimits = {}): Promise<LayerInfo[]> {
    const { layers } = await this.calls.unary(LayerService.method.listLayers, create(ListLayersRequestSchema), limits);
    return layers.map(layerFromWire);
  }

  /** Removes a layer from the server, after its running requests have ended. */
  async unloadLayer(name: string, limits: CallLimits = {}): Promise<void> {
    checkName(name);
    await this.calls.unary(LayerService.method.unloadLayer, create(UnloadLayerRequestSchema, { name }), limits);
  }

  /**
   * A 2-D convolution of an image of any size, in bands that are computed while others travel. Not in browsers.
   *
   * @param source (N, C, H, W) or (C, H, W), or bands (C, rows, W) of one sample from an iterator, which needs `shape`.
   * @param weight (M, C/g, K, K); transposed: (C, M/g, K, K).
   * @throws InvalidArgumentError if an argument is invalid; other errors come while the stream is read.
   */
  streamConv2d(source: StreamSource, weight: TensorLike, options: StreamConvOptions = {}): BandStream {
    const { spec, stream } = splitStream(options);
    return this.streamConvolve(source, [{ kernel: weight, bias: options.bias ?? null, spec }], stream);
  }

  /** Runs steps on a feature map of any size, in bands; see `streamConv2d`. */
  streamConvolve(source: StreamSource, steps: readonly Step[], options: StreamOptions = {}): BandStream {
    const kernel = asTensor(checkedSteps(steps)[0]!.kernel, "steps[0].kernel");
    const rank = kernel.shape.length - 2;
    const rows = rowsOf(source, options.shape, options.dtype, kernel.dtype, rank);
    const transfer = new Transfer(rows, readySteps(steps, rows.dtype), options);
    return new BandStream(this.calls, transfer, options, rows.unbatched);
  }

  /** The server's version, executor and workers. */
  async status(limits: CallLimits = {}): Promise<GetClusterResponse> {
    return this.calls.unary(ClusterService.method.getCluster, create(GetClusterRequestSchema), limits);
  }

  /** Closes the connection. Calls in flight end. */
  close(): void {
    this.calls.close();
  }

  protected override async output(x: TensorLike, steps: readonly Step[], call: CallOptions): Promise<Tensor> {
    return (await this.#run(x, steps, call, false)).output;
  }

  async #run(x: TensorLike, steps: readonly Step[], call: CallOptions, report: boolean): Promise<Result> {
    const prepared = prepare(x, steps);
    const request = convolveRequest(prepared, call, report);
    return resultOf(await this.calls.unary(ConvolutionService.method.convolve, request, call), prepared.unbatched);
  }

  #layer(message: LayerMessage | undefined): Layer {
    if (!message) throw new DataLossError("the server's answer describes no layer");
    return new Layer(layerFromWire(message), this.calls, this);
  }
}

function isSteps(weight: readonly number[] | readonly Step[]): weight is readonly Step[] {
  return typeof weight[0] === "object";
}

function checkName(name: string): void {
  if (typeof name !== "string") throw InvalidArgumentError.of("name", "a layer's name, such as 'alexnet/conv2'", name);
}
