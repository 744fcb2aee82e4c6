/** Specs, plans and reports to messages and back. */

import { create } from "@bufbuild/protobuf";
import { Plan, type Range, type Shard, type StepPlan } from "../convolution/plan.js";
import { Report } from "../convolution/report.js";
import {
  ACTIVATIONS,
  Activation,
  ConvSpec,
  listed,
  MATHS,
  PADDING_MODES,
  type Padding,
  type PaddingRule,
  type PerAxis,
} from "../convolution/spec.js";
import { InvalidArgumentError } from "../errors.js";
import type { ConvolveResponse } from "../protocol/groupconv/v1/convolution_pb.js";
import type {
  Plan as PlanMessage,
  Range as RangeMessage,
  ShardPlan,
  StepPlan as StepPlanMessage,
} from "../protocol/groupconv/v1/plan_pb.js";
import {
  Activation_Kind,
  ConvSpecSchema,
  Math as MathCode,
  PaddingMode,
  PaddingRule as RuleCode,
  type ConvSpec as SpecMessage,
} from "../protocol/groupconv/v1/spec_pb.js";

const RULES: Record<PaddingRule, RuleCode> = {
  same: RuleCode.SAME_UPPER,
  same_lower: RuleCode.SAME_LOWER,
  valid: RuleCode.VALID,
};

/** The numbers of an enum by our names, which are the enum's in lower case. */
function codes<T extends string>(names: readonly T[], values: Record<string, number | string>): Record<T, number> {
  return Object.fromEntries(names.map((name) => [name, values[name.toUpperCase()]])) as Record<T, number>;
}
const MODES = codes(PADDING_MODES, PaddingMode);
const KINDS = codes(ACTIVATIONS, Activation_Kind);
const MATH_CODES = codes(MATHS, MathCode);

/** A spec as a message. */
export function specToWire(spec: ConvSpec): SpecMessage {
  const big = (value: PerAxis) => listed(value).map(BigInt);
  const message = create(ConvSpecSchema, {
    stride: big(spec.stride),
    dilation: big(spec.dilation),
    groups: BigInt(spec.groups),
    paddingMode: MODES[spec.paddingMode],
    transposed: spec.transposed,
    outputPadding: big(spec.outputPadding),
    flipKernel: spec.flipKernel,
    exact: spec.exact,
    math: spec.math === null ? MathCode.UNSPECIFIED : MATH_CODES[spec.math],
  });
  if (typeof spec.padding === "string") message.paddingRule = RULES[spec.padding];
  else {
    const sides = typeof spec.padding === "number" ? [spec.padding] : spec.padding;
    message.paddingLow = sides.map((p) => BigInt(typeof p === "number" ? p : p[0]));
    message.paddingHigh = sides.map((p) => BigInt(typeof p === "number" ? p : p[1]));
  }
  if (spec.activation) {
    message.activation = {
      $typeName: "groupconv.v1.Activation",
      kind: KINDS[spec.activation.kind],
      slope: [...spec.activation.slope],
    };
  }
  return message;
}

/**
 * A message as a spec.
 *
 * @throws InvalidArgumentError if a field of the message is invalid.
 */
export function specFromWire(message: SpecMessage): ConvSpec {
  const axes = (values: readonly bigint[], otherwise: number): PerAxis =>
    values.length ? values.map(checkable) : otherwise;
  return new ConvSpec({
    stride: axes(message.stride, 1),
    padding: paddingFromWire(message),
    dilation: axes(message.dilation, 1),
    groups: message.groups === undefined ? 1 : checkable(message.groups),
    paddingMode:
      message.paddingMode === PaddingMode.UNSPECIFIED ? "zeros" : named("padding_mode", message.paddingMode, MODES),
    activation: activationFromWire(message),
    transposed: message.transposed,
    outputPadding: axes(message.outputPadding, 0),
    flipKernel: message.flipKernel,
    exact: message.exact,
    math: message.math === MathCode.UNSPECIFIED ? null : named("math", message.math, MATH_CODES),
  });
}

/** A message as a plan. */
export function planFromWire(message: PlanMessage): Plan {
  return new Plan(message.steps.map(stepFromWire));
}

/** The report of a response; undefined if it has none. */
export function reportFromWire(response: ConvolveResponse): Report | undefined {
  if (!response.plan) return undefined;
  const steps = response.steps.map((step) =>
    step.shards.map(({ index, worker, algorithm, seconds, computeSeconds, attempts, improving }) => ({
      index,
      worker,
      algorithm,
      seconds,
      computeSeconds,
      attempts,
      improving,
    })),
  );
  return new Report(
    planFromWire(response.plan),
    steps,
    Object.fromEntries(response.phases.map((p) => [p.name, p.seconds])),
  );
}

/** A number; one that a number cannot hold stays a bigint, which the check of its range refuses and shows as it is. */
function checkable(value: bigint): number {
  return Number.isSafeInteger(Number(value)) ? Number(value) : (value as unknown as number);
}

function named<T extends string>(field: string, value: number, names: Record<T, number>): T {
  const found = (Object.keys(names) as T[]).find((name) => names[name] === value);
  if (found === undefined) throw InvalidArgumentError.of(field, `one of ${Object.keys(names).join(", ")}`, value);
  return found;
}

function paddingFromWire(message: SpecMessage): Padding {
  const [low, high] = [message.paddingLow.map(checkable), message.paddingHigh.map(checkable)];
  if (message.paddingRule !== RuleCode.UNSPECIFIED && message.paddingRule !== RuleCode.EXPLICIT) {
    const rule = named("padding_rule", message.paddingRule, RULES);
    if (low.length || high.length) {
      const given = low.length ? low : high;
      throw InvalidArgumentError.of("padding_low", "no explicit padding together with a padding_rule", given);
    }
    return rule;
  }
  if (!high.length) return low.length ? low : 0;
  if (low.length !== high.length) {
    throw InvalidArgumentError.of("padding_high", `${low.length} values, as padding_low has`, high.length);
  }
  return low.map((value, i) => [value, high[i]!] as const);
}

function activationFromWire({ activation }: SpecMessage): Activation | null {
  if (!activation || (activation.kind === Activation_Kind.UNSPECIFIED && !activation.slope.length)) return null;
  return new Activation(named("activation.kind", activation.kind, KINDS), activation.slope);
}

function stepFromWire(s: StepPlanMessage): StepPlan {
  return {
    variant: s.variant,
    inputShape: s.inputShape.map(Number),
    kernelShape: s.kernelShape.map(Number),
    outputShape: s.outputShape.map(Number),
    groups: Number(s.groups),
    cut: s.cut,
    reason: s.reason,
    shards: s.shards.map(shardFromWire),
    seconds: s.predictedSeconds,
    alternatives: s.alternatives.map(({ cut, shards, predictedSeconds, measured }) => ({
      cut,
      shards,
      seconds: predictedSeconds,
      measured,
    })),
    joined: s.joined,
    stride: s.stride.map(Number),
    dilation: s.dilation.map(Number),
    transposed: s.transposed,
    measured: s.measured,
  };
}

function shardFromWire(s: ShardPlan): Shard {
  const ranges = (values: readonly RangeMessage[]): Range[] =>
    values.map((r) => ({ start: Number(r.start), stop: Number(r.stop) }));
  return {
    index: s.index,
    worker: s.worker,
    input: ranges(s.input),
    kernel: ranges(s.kernel),
    output: ranges(s.output),
    bytesIn: Number(s.bytesIn),
    bytesOut: Number(s.bytesOut),
    multiplyAdds: Number(s.multiplyAdds),
    seconds: s.predictedSeconds,
    partial: s.partial,
  };
}
