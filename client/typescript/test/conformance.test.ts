/** The conformance suite of proto/conformance against a live server, over each transport. */

import { fromJson, type DescMethodUnary } from "@bufbuild/protobuf";
import { afterAll, describe, expect, inject, test } from "vitest";
import { connect, GroupconvError, InvalidArgumentError, type StepPlan } from "../src/node.js";
import {
  ConvolutionService,
  ConvolveRequestSchema,
  PlanConvolutionRequestSchema,
} from "../src/protocol/groupconv/v1/convolution_pb.js";
import { LayerService } from "../src/protocol/groupconv/v1/layer_pb.js";
import { NetworkService } from "../src/protocol/groupconv/v1/network_pb.js";
import { TensorSchema } from "../src/protocol/groupconv/v1/tensor_pb.js";
import { numbersOf } from "../src/tensors/convert.js";
import { GrpcTransport } from "../src/transport/grpc.js";
import { WebTransport } from "../src/transport/web.js";
import { specFromWire } from "../src/wire/specs.js";
import { tensorFromWire } from "../src/wire/tensors.js";
import { read, type ErrorCase, type OutputCase, type PlanCase } from "./cases.js";
import { rejected } from "./errors.js";
import { TRANSPORTS } from "./transports.js";

describe.each(TRANSPORTS)("outputs over $name", ({ open }) => {
  const client = open();
  afterAll(() => client.close());

  test.each(read<OutputCase>("outputs"))("$name", async ({ request, output, tolerance }) => {
    const { input, steps } = fromJson(ConvolveRequestSchema, request);
    const { output: y } = await client.run(
      tensorFromWire(input!, "input"),
      steps.map(({ kernel, bias, spec }) => ({
        kernel: tensorFromWire(kernel!, "kernel"),
        bias: bias ? tensorFromWire(bias, "bias") : null,
        spec: specFromWire(spec!),
      })),
    );
    const expected = tensorFromWire(fromJson(TensorSchema, output), "output");
    expect([y.dtype, y.shape]).toEqual([expected.dtype, expected.shape]);
    const [got, wanted] = [numbersOf(y), numbersOf(expected)];
    const worst = Math.max(0, ...Array.from(wanted, (value, i) => Math.abs(value - got[i]!)));
    expect(worst).toBeLessThanOrEqual(tolerance);
  });
});

describe("plans", () => {
  const client = connect(inject("address"));
  afterAll(() => client.close());

  test.each(read<PlanCase>("plans"))("$name", async ({ request, steps }) => {
    const message = fromJson(PlanConvolutionRequestSchema, request);
    const plan = await client.planSteps(
      message.input!.shape.map(Number),
      message.steps.map((s) => s.kernel!.shape.map(Number)),
      message.steps.map((s) => specFromWire(s.spec!)),
      { cut: message.cut },
    );
    const found = plan.steps.map(({ variant, inputShape, kernelShape, outputShape, groups, cut }, i) => ({
      ...{ variant, inputShape, kernelShape, outputShape, groups },
      ...(steps[i]?.cut ? { cut } : {}),
    }));
    expect(found).toEqual(steps.map(({ weights: _, multiplyAdds: __, ...rest }) => rest));
    expect(plan.weights).toBe(steps.reduce((sum, s) => sum + s.weights, 0));
    expect(plan.multiplyAdds).toBe(steps.reduce((sum, s) => sum + s.multiplyAdds, 0));
    for (const step of plan.steps) expect(covered(step)).toBe(step.outputShape.reduce((a, b) => a * b));
  });
});

/** Outputs that the shards make; fails if two of them make the same. */
function covered(step: StepPlan): number {
  const boxes = step.shards.map((shard) => shard.output);
  for (const [i, a] of boxes.entries()) {
    for (const b of boxes.slice(i + 1)) {
      expect(a.some((r, axis) => r.stop <= b[axis]!.start || b[axis]!.stop <= r.start)).toBe(true);
    }
  }
  return boxes.reduce((sum, box) => sum + box.reduce((product, r) => product * (r.stop - r.start), 1), 0);
}

const METHODS = Object.fromEntries(
  [ConvolutionService, LayerService, NetworkService].flatMap((service) =>
    service.methods.map((method) => [`${service.typeName}/${method.name}`, method as DescMethodUnary]),
  ),
);

describe.each([
  { name: "gRPC", open: () => new GrpcTransport(inject("address"), undefined, 2 ** 29) },
  { name: "Connect", open: () => new WebTransport(inject("webAddress"), "connect") },
  { name: "gRPC-Web", open: () => new WebTransport(inject("webAddress"), "grpc-web") },
])("errors over $name", ({ open }) => {
  const transport = open();
  afterAll(() => transport.close());

  test.each(read<ErrorCase>("errors"))("$name", async ({ method, request, status, field, message }) => {
    const found = METHODS[method]!;
    const context = { deadline: undefined, signal: undefined, headers: {} };
    const error = (await rejected(transport.unary(found, fromJson(found.input, request), context))) as GroupconvError;
    expect(error).toBeInstanceOf(GroupconvError);
    expect(error.status).toBe(status);
    expect(error.requestId).not.toBe("");
    if (message !== undefined) expect(error.message).toBe(message);
    if (field === undefined) expect(error.violations).toEqual([]);
    else {
      expect(error).toBeInstanceOf(InvalidArgumentError);
      expect([(error as InvalidArgumentError).field, error.violations.map((v) => v.field)]).toEqual([field, [field]]);
    }
  });
});
