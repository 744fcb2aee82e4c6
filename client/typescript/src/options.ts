/** Options that several functions of a client share. */

import { ConvSpec, SPEC_OPTIONS, type SpecOptions } from "./convolution/spec.js";
import { InvalidArgumentError } from "./errors.js";
import type { DType } from "./tensors/dtypes.js";
import type { TensorLike } from "./tensors/tensor.js";
import type { CallLimits } from "./transport/calls.js";
import type { Choices } from "./wire/requests.js";

/** Options of a call: `timeout`, `signal`, `allowReordering` and `cut`. */
export interface CallOptions extends CallLimits, Choices {}

/** Options of a convolution: the bias, those of a `ConvSpec`, and those of a call. */
export interface ConvOptions extends Omit<SpecOptions, "transposed" | "outputPadding">, CallOptions {
  /** (M), added to the output. */
  bias?: TensorLike | null;
}

/** Options of a transposed convolution. */
export interface ConvTransposeOptions extends Omit<ConvOptions, "paddingMode">, Pick<SpecOptions, "outputPadding"> {}

/** Options of a depthwise-separable convolution; bias and activation are of its pointwise step. */
export interface SeparableOptions extends Omit<ConvOptions, "groups"> {
  depthwiseBias?: TensorLike | null;
  depthwiseActivation?: SpecOptions["activation"];
}

/** Options of the general convolution: its parameters are in `spec`. */
export interface ConvolveOptions extends CallOptions {
  bias?: TensorLike | null;
  spec?: ConvSpec | SpecOptions;
}

/** Options of a stream. Its timeout has no default, whatever the client's is. */
export interface StreamOptions extends CallLimits, Pick<Choices, "allowReordering"> {
  /** Shape of all bands of an iterator together, (1, C, H, …) or (C, H, …). */
  shape?: readonly number[];
  /** Dtype of an iterator's bands. Default: float32. */
  dtype?: DType;
  /** Output rows of a band; without it the server chooses. */
  bandRows?: number;
}

/** Options of a streamed convolution, which may be transposed. */
export interface StreamConvOptions extends StreamOptions, SpecOptions {
  bias?: TensorLike | null;
}

const STREAM_OPTIONS = ["shape", "dtype", "bandRows", "allowReordering", "timeout", "signal"] as const;
const CALL_OPTIONS = ["timeout", "signal", "allowReordering", "cut"] as const;

/** The options of a convolution function apart: its spec and its call. */
export interface Split {
  readonly spec: ConvSpec;
  readonly bias: TensorLike | null;
  readonly call: CallOptions;
}

/**
 * Separates the options of a convolution function.
 *
 * @param transposed of the spec.
 * @param without options of a `ConvSpec` that the function sets itself.
 * @param also options that the function has beside these.
 * @throws InvalidArgumentError if the function has no such option, or a value is invalid.
 */
export function split(
  options: ConvOptions | ConvTransposeOptions | SeparableOptions,
  transposed = false,
  without: readonly string[] = [],
  also: readonly string[] = [],
): Split {
  const ofSpec: readonly string[] = SPEC_OPTIONS.filter((name) => name !== "transposed" && !without.includes(name));
  checkNames(options, [...ofSpec, ...CALL_OPTIONS, "bias", ...also]);
  return {
    spec: new ConvSpec({ ...pick(options, ofSpec), transposed }),
    bias: options.bias ?? null,
    call: callOptions(options),
  };
}

/**
 * Separates the options of a streamed convolution.
 *
 * @throws InvalidArgumentError if there is no such option, or a value is invalid.
 */
export function splitStream(options: StreamConvOptions): { spec: ConvSpec; stream: StreamOptions } {
  checkNames(options, [...SPEC_OPTIONS, ...STREAM_OPTIONS, "bias"]);
  return { spec: new ConvSpec(pick(options, SPEC_OPTIONS)), stream: pick(options, STREAM_OPTIONS) };
}

/** The options of a call among others. */
export function callOptions(options: CallOptions): CallOptions {
  return pick(options, CALL_OPTIONS);
}

function pick(options: object, names: readonly string[]): object {
  return Object.fromEntries(Object.entries(options).filter(([name]) => names.includes(name)));
}

/** @throws InvalidArgumentError if an option has a name that is not known. */
function checkNames(options: object, known: readonly string[]): void {
  for (const [name, value] of Object.entries(options)) {
    if (known.includes(name)) continue;
    const names = [...known].sort();
    throw InvalidArgumentError.of(name, `one of the arguments ${names.join(", ")}`, value);
  }
}
