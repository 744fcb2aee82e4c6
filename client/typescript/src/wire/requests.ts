/** Messages of ConvolutionService: arguments to requests, answers to results. */

import { create } from "@bufbuild/protobuf";
import { checkedDtype, type Prepared, type ReadyStep } from "../convolution/arguments.js";
import { cutName } from "../convolution/cuts.js";
import { Plan } from "../convolution/plan.js";
import { Report, type Result } from "../convolution/report.js";
import type { ConvSpec } from "../convolution/spec.js";
import { geometries } from "../convolution/steps.js";
import { DataLossError } from "../errors.js";
import {
  ConvolveRequestSchema,
  PlanConvolutionRequestSchema,
  type ConvolveRequest,
  type ConvolveResponse,
  type PlanConvolutionRequest,
} from "../protocol/groupconv/v1/convolution_pb.js";
import { StepSchema, StepTypeSchema, type Step as StepMessage } from "../protocol/groupconv/v1/spec_pb.js";
import type { DType } from "../tensors/dtypes.js";
import { reportFromWire, specToWire } from "./specs.js";
import { tensorFromWire, tensorToWire, typeToWire } from "./tensors.js";

/** What a request may ask for beside its arithmetic. */
export interface Choices {
  /** Whether sums over input channels may be split between workers; this changes how floats round. */
  allowReordering?: boolean;
  /**
   * What to cut every step along, in place of the planner's choice: "nothing", "group", "batch", "filter", "channel" (with
   * `allowReordering`), a spatial axis ("width"; "rows", "columns"; "slices", "rows", "columns"), or several such as
   * "group × rows".
   */
  cut?: string;
}

/** A request that runs steps. */
export function convolveRequest(prepared: Prepared, choices: Choices, report: boolean): ConvolveRequest {
  return create(ConvolveRequestSchema, {
    input: tensorToWire(prepared.input),
    steps: stepsToWire(prepared.steps),
    allowReordering: choices.allowReordering ?? false,
    cut: cutName(choices.cut),
    withoutReport: !report,
  });
}

/** Steps with tensors as messages. */
export function stepsToWire(steps: readonly ReadyStep[]): StepMessage[] {
  return steps.map(({ kernel, bias, spec }) => {
    const message = create(StepSchema, { kernel: tensorToWire(kernel), spec: specToWire(spec) });
    if (bias) message.bias = tensorToWire(bias);
    return message;
  });
}

/**
 * A request for a plan.
 *
 * @throws InvalidArgumentError if the shapes do not fit, or the dtype is not supported.
 */
export function planRequest(
  inputShape: readonly number[],
  kernelShapes: readonly (readonly number[])[],
  specs: readonly ConvSpec[],
  dtype: string,
  choices: Choices,
): PlanConvolutionRequest {
  geometries(specs, inputShape, kernelShapes);
  const of: DType = checkedDtype("dtype", dtype);
  return create(PlanConvolutionRequestSchema, {
    input: typeToWire(of, inputShape),
    steps: specs.map((spec, i) =>
      create(StepTypeSchema, { kernel: typeToWire(of, kernelShapes[i]!), spec: specToWire(spec) }),
    ),
    allowReordering: choices.allowReordering ?? false,
    cut: cutName(choices.cut),
  });
}

/** Output and report of an answer; without a report of the server it is empty. */
export function resultOf(response: ConvolveResponse, unbatched: boolean): Result {
  if (!response.output) throw new DataLossError("the server's answer has no output");
  const report = reportFromWire(response) ?? new Report(new Plan([]), [], {});
  const output = tensorFromWire(response.output, "output");
  return { output: unbatched ? output.reshape(output.shape.slice(1)) : output, report };
}
