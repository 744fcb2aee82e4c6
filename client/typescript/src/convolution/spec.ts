/**
 * ConvSpec: the parameters of a convolution, without its arrays. It validates itself.
 *
 * A number applies to every axis, an array has one value per axis. The rank comes from the kernel (`resolve`). Defaults
 * follow torch.nn.functional. Errors call parameters as the API does: `padding_mode` is the option `paddingMode`.
 */

import { InvalidArgumentError } from "../errors.js";
import { shown } from "../text.js";

export const PADDING_MODES = ["zeros", "reflect", "replicate", "circular"] as const;
export const PADDING_RULES = ["same", "same_lower", "valid"] as const;
export const ACTIVATIONS = ["relu", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"] as const;
export const MATHS = ["float32", "tf32", "float16", "bfloat16"] as const;
export const MAX_RANK = 3;
/** Limit of strides, dilations and paddings: no axis of a tensor is longer. */
export const MAX_PARAMETER = 2 ** 31 - 1;

export type PaddingMode = (typeof PADDING_MODES)[number];
export type PaddingRule = (typeof PADDING_RULES)[number];
export type ActivationKind = (typeof ACTIVATIONS)[number];
/** What a GPU may round float32 factors to before it multiplies them. */
export type FactorMath = (typeof MATHS)[number];
export type PerAxis = number | readonly number[];
/** Low and high padding of an axis. */
export type Pair = readonly [number, number];
export type Padding = PaddingRule | number | readonly (number | Pair)[];

const DEFAULT_SLOPE: Partial<Record<ActivationKind, readonly number[]>> = { leaky_relu: [0.01], prelu: [0.25] };

/** A function of each element, applied after the bias. */
export class Activation {
  readonly kind: ActivationKind;
  /** Factor of negative elements: one value for leaky_relu; one, or one per output channel, for prelu. */
  readonly slope: readonly number[];

  /** @throws InvalidArgumentError if the kind is unknown, or takes no such slopes. */
  constructor(kind: ActivationKind, slope: readonly number[] = []) {
    oneOf("activation", ACTIVATIONS, kind);
    if (!Array.isArray(slope) || slope.some((s) => typeof s !== "number")) {
      throw InvalidArgumentError.of("activation.slope", "a sequence of numbers", slope);
    }
    const found = slope.length ? slope : (DEFAULT_SLOPE[kind] ?? []);
    if (found.length && !(kind in DEFAULT_SLOPE))
      throw InvalidArgumentError.of("activation.slope", `none for ${kind}`, found);
    if (kind === "leaky_relu" && found.length !== 1) {
      throw InvalidArgumentError.of("activation.slope", "one value for leaky_relu", found);
    }
    this.kind = kind;
    this.slope = [...found];
  }
}

/** The options of a `ConvSpec`; every one has a default. */
export interface SpecOptions {
  /** Step of the kernel over the input, in elements per axis (transposed: over the output), at least 1. */
  stride?: PerAxis;
  /** Elements added around the input: a number; one or a `[low, high]` pair per axis; "same", "same_lower", "valid". */
  padding?: Padding;
  /** Distance between kernel taps, in elements per axis, at least 1. */
  dilation?: PerAxis;
  /** Number of channel groups; divides input and output channels. */
  groups?: number;
  /** How the padding is filled; transposed convolutions take only "zeros". */
  paddingMode?: PaddingMode;
  /** Applied after the bias. */
  activation?: ActivationKind | Activation | null;
  /** Whether it is a transposed convolution (learned upsampling). */
  transposed?: boolean;
  /** Elements added at the end of a transposed output, less than max(stride, dilation). */
  outputPadding?: PerAxis;
  /** Whether to flip the kernel (convolution); the default is cross-correlation, as in deep learning. */
  flipKernel?: boolean;
  /** Whether each output must be the direct sum of its products. */
  exact?: boolean;
  /** What a GPU may round float32 factors to; null takes the worker's default. */
  math?: FactorMath | null;
}

/** The names of the options of a `ConvSpec`. */
export const SPEC_OPTIONS = [
  "activation",
  "dilation",
  "exact",
  "flipKernel",
  "groups",
  "math",
  "outputPadding",
  "padding",
  "paddingMode",
  "stride",
  "transposed",
] as const satisfies readonly (keyof SpecOptions)[];

/**
 * The parameters of one convolution: immutable.
 *
 * @example
 * new ConvSpec({ stride: 2, padding: [1, [0, 1]], groups: 2, activation: "relu" });
 */
export class ConvSpec {
  readonly stride: PerAxis;
  readonly padding: Padding;
  readonly dilation: PerAxis;
  readonly groups: number;
  readonly paddingMode: PaddingMode;
  readonly activation: Activation | null;
  readonly transposed: boolean;
  readonly outputPadding: PerAxis;
  readonly flipKernel: boolean;
  readonly exact: boolean;
  readonly math: FactorMath | null;

  /** @throws InvalidArgumentError if a value is invalid for every shape; it names the field, what was expected and what came. */
  constructor(options: SpecOptions = {}) {
    const { paddingMode = "zeros", activation = null, math = null, outputPadding = 0 } = options;
    this.stride = perAxisOption("stride", options.stride ?? 1, 1);
    this.padding = paddingOption(options.padding ?? 0);
    this.dilation = perAxisOption("dilation", options.dilation ?? 1, 1);
    this.groups = integer("groups", options.groups ?? 1, 1);
    this.paddingMode = oneOf("padding_mode", PADDING_MODES, paddingMode);
    this.activation = asActivation(activation);
    this.transposed = options.transposed ?? false;
    this.outputPadding = perAxisOption("output_padding", outputPadding, 0);
    this.flipKernel = options.flipKernel ?? false;
    this.exact = options.exact ?? false;
    this.math = math === null ? null : oneOf("math", MATHS, math);
    if (this.exact && math !== null && math !== "float32") {
      throw InvalidArgumentError.of("math", "float32 together with exact", math);
    }
    if (this.transposed && paddingMode !== "zeros") {
      throw InvalidArgumentError.of("padding_mode", "zeros for a transposed convolution", paddingMode);
    }
    if (!this.transposed && listed(this.outputPadding).some((p) => p !== 0)) {
      throw InvalidArgumentError.of("output_padding", "0 for a convolution that is not transposed", outputPadding);
    }
  }

  /** The same parameters with some replaced. */
  with(options: SpecOptions): ConvSpec {
    return new ConvSpec({ ...this, ...options });
  }

  toString(): string {
    const defaults: Record<string, unknown> = { ...new ConvSpec() };
    const shownOptions = Object.entries(this)
      .filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(defaults[name]))
      .map(([name, value]) => `${name}: ${value instanceof Activation ? shown(value.kind) : JSON.stringify(value)}`);
    return `ConvSpec(${shownOptions.join(", ")})`;
  }
}

/** The `Activation` of a name, with its default slope; null stays null. */
export function asActivation(value: ActivationKind | Activation | null): Activation | null {
  return value === null || value instanceof Activation ? value : new Activation(value);
}

/**
 * One value for each of `rank` axes.
 *
 * @throws InvalidArgumentError if there is neither one value nor one per axis.
 */
export function perAxis(field: string, value: PerAxis, rank: number): number[] {
  const values = listed(value);
  if (values.length !== 1 && values.length !== rank) {
    throw InvalidArgumentError.of(field, `one value or one per axis (${rank})`, value);
  }
  return values.length === 1 ? Array<number>(rank).fill(values[0]!) : [...values];
}

/** One `[low, high]` pair of explicit padding for each of `rank` axes. */
export function paddingPairs(value: number | readonly (number | Pair)[], rank: number): Pair[] {
  const values: readonly (number | Pair)[] = typeof value === "number" ? [value] : value;
  if (values.length !== 1 && values.length !== rank) {
    throw InvalidArgumentError.of("padding", `one value or one per axis (${rank})`, value);
  }
  const pairs = values.map((v): Pair => (typeof v === "number" ? [v, v] : v));
  return pairs.length === 1 ? Array<Pair>(rank).fill(pairs[0]!) : pairs;
}

/** A parameter as a list: a number is a list of one. */
export function listed(value: PerAxis): readonly number[] {
  return typeof value === "number" ? [value] : value;
}

function oneOf<T extends string>(field: string, known: readonly T[], value: T): T {
  if (!known.includes(value)) throw InvalidArgumentError.of(field, `one of ${known.join(", ")}`, value);
  return value;
}

function integer(field: string, value: unknown, least: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > MAX_PARAMETER) {
    throw InvalidArgumentError.of(field, `an integer from ${least} to ${MAX_PARAMETER}`, value);
  }
  return value;
}

function axes<T, R>(field: string, value: readonly T[], each: (field: string, value: T) => R): R[] {
  if (value.length < 1 || value.length > MAX_RANK) {
    throw InvalidArgumentError.of(field, `1 to ${MAX_RANK} values, one per axis`, value);
  }
  return value.map((v, i) => each(`${field}[${i}]`, v));
}

function perAxisOption(field: string, value: PerAxis, least: number): PerAxis {
  return Array.isArray(value) ? axes(field, value, (path, v) => integer(path, v, least)) : integer(field, value, least);
}

function paddingOption(value: Padding): Padding {
  if (typeof value === "string") {
    if (!PADDING_RULES.includes(value)) {
      throw InvalidArgumentError.of("padding", `integers or one of ${PADDING_RULES.join(", ")}`, value);
    }
    return value;
  }
  return typeof value === "object" ? axes("padding", value, sideOrPair) : integer("padding", value, 0);
}

function sideOrPair(field: string, value: number | Pair): number | Pair {
  if (typeof value !== "object") return integer(field, value, 0);
  if (value.length !== 2) throw InvalidArgumentError.of(field, "a (low, high) pair", value);
  return [integer(`${field}.low`, value[0], 0), integer(`${field}.high`, value[1], 0)];
}
