/** Messages of resident layers: the stream that loads one, and the server's description of one. */

import { create } from "@bufbuild/protobuf";
import { checkedDtype, checkedSteps, supported } from "../convolution/arguments.js";
import { perAxis, type ConvSpec } from "../convolution/spec.js";
import { asSpec, geometries, type Step } from "../convolution/steps.js";
import { receptiveField, strideOf, type Window } from "../convolution/windows.js";
import { InvalidArgumentError } from "../errors.js";
import {
  LayerHeaderSchema,
  LayerStepSchema,
  LoadLayerRequestSchema,
  type Layer,
  type LoadLayerRequest,
} from "../protocol/groupconv/v1/layer_pb.js";
import { isFloat, type DType } from "../tensors/dtypes.js";
import { asTensor, sizeOf, type Tensor } from "../tensors/tensor.js";
import { humanBytes, tuple } from "../text.js";
import { specFromWire, specToWire } from "./specs.js";
import { bytesOf, checkedShape, typeFromWire, typeToWire } from "./tensors.js";

/** Bytes of weights in one message. */
export const CHUNK_BYTES = 2 ** 20;

/** A loaded layer as the server describes it. */
export class LayerInfo {
  constructor(
    readonly name: string,
    /** Each load under a name gets a higher one. */
    readonly version: number,
    /** The convolution of each step. */
    readonly specs: readonly ConvSpec[],
    readonly kernelShapes: readonly (readonly number[])[],
    /** Of the first kernel. */
    readonly dtype: DType,
    /** Size of all weights. */
    readonly bytes: number,
    /** Requests that this version answered. */
    readonly requests: number,
    readonly failures: number,
    readonly samples: number,
    /** Total time from a parsed request to its output. */
    readonly seconds: number,
  ) {}

  /** The window of each step, for `receptiveField`. */
  get windows(): readonly Window[] {
    return this.specs.map((spec, i) => {
      const kernel = this.kernelShapes[i]!.slice(2);
      const [stride, dilation] = [
        perAxis("stride", spec.stride, kernel.length),
        perAxis("dilation", spec.dilation, kernel.length),
      ];
      return { kernel, stride, dilation, transposed: spec.transposed };
    });
  }

  /** Number of kernel weights of all steps, without biases. */
  get weights(): number {
    return this.kernelShapes.reduce((sum, shape) => sum + sizeOf(shape), 0);
  }

  /** Input elements per axis between two neighboring outputs of the last step. */
  get stride(): number[] {
    return strideOf(this.windows);
  }

  /** Input elements per axis that one output of the last step depends on. */
  get receptiveField(): number[] {
    return receptiveField(this);
  }

  /**
   * Multiply-adds of all steps for an input (N, C, *spatial).
   *
   * @throws InvalidArgumentError if the shape does not fit.
   */
  multiplyAdds(inputShape: readonly number[]): number {
    return geometries(this.specs, inputShape, this.kernelShapes).reduce((sum, g) => sum + g.multiplyAdds, 0);
  }

  toString(): string {
    const kernels = this.kernelShapes.map(tuple).join(", ");
    return `${this.name} version ${this.version}: kernel ${kernels} ${this.dtype}, ${humanBytes(this.bytes)}`;
  }
}

/**
 * The messages that load a layer: a header, then the weights in chunks.
 *
 * @param dtype a float dtype to convert kernels and biases to; undefined leaves each as it is.
 * @param inputs shapes that the server should prepare for.
 * @throws InvalidArgumentError if there are no steps, or a dtype is not supported.
 */
export function loadMessages(
  name: string,
  steps: readonly Step[],
  dtype: DType | undefined,
  inputs: readonly (readonly number[])[],
): () => Iterable<LoadLayerRequest> {
  const wanted = dtype === undefined ? undefined : checkedDtype("dtype", dtype);
  const header = create(LayerHeaderSchema, { name });
  const tensors: Tensor[] = [];
  checkedSteps(steps).forEach((step, i) => {
    const kernel = supported(`steps[${i}].kernel`, asTensor(step.kernel, `steps[${i}].kernel`), wanted);
    if (wanted !== undefined && kernel.dtype !== wanted) {
      throw InvalidArgumentError.of("dtype", "a float, as weights are not converted to integers", wanted);
    }
    const spec = specToWire(asSpec(step.spec));
    const message = create(LayerStepSchema, { kernel: typeToWire(kernel.dtype, kernel.shape), spec });
    tensors.push(kernel);
    if (step.bias !== undefined && step.bias !== null) {
      const like = isFloat(kernel.dtype) ? kernel.dtype : undefined;
      const bias = supported(`steps[${i}].bias`, asTensor(step.bias, `steps[${i}].bias`), like);
      message.bias = typeToWire(bias.dtype, bias.shape);
      tensors.push(bias);
    }
    header.steps.push(message);
  });
  header.inputs = inputs.map((shape) => typeToWire(tensors[0]!.dtype, checkedShape(shape, "inputs")));
  return function* messages() {
    yield create(LoadLayerRequestSchema, { part: { case: "header", value: header } });
    for (const bytes of tensors.map(bytesOf))
      yield* chunksOf(bytes, (value) => create(LoadLayerRequestSchema, { part: { case: "chunk", value } }));
  };
}

/** Bytes as messages of at most `CHUNK_BYTES`. */
export function* chunksOf<T>(bytes: Uint8Array, message: (chunk: Uint8Array) => T): Iterable<T> {
  for (let start = 0; start < bytes.length; start += CHUNK_BYTES)
    yield message(bytes.subarray(start, start + CHUNK_BYTES));
}

/** The description of a layer from its message. */
export function layerFromWire(message: Layer): LayerInfo {
  const kernels = message.steps.map((s, i) => typeFromWire(s.kernel!, `steps[${i}].kernel`));
  return new LayerInfo(
    message.name,
    Number(message.version),
    message.steps.map((s) => specFromWire(s.spec!)),
    kernels.map((k) => k.shape),
    kernels[0]!.dtype,
    Number(message.bytes),
    Number(message.requests),
    Number(message.failures),
    Number(message.samples),
    message.seconds,
  );
}
