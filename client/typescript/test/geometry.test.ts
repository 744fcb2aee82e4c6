import { fromJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { ConvSpec, InvalidArgumentError, receptiveField, resolve } from "../src/index.js";
import { ConvSpecSchema } from "../src/protocol/groupconv/v1/spec_pb.js";
import { specFromWire, specToWire } from "../src/wire/specs.js";
import { read, type GeometryCase } from "./cases.js";
import { caught } from "./errors.js";

describe("the conformance suite: geometry", () => {
  test.each(read<GeometryCase>("geometry"))("$name", ({ inputShape, kernelShape, spec, geometry, error }) => {
    const message = fromJson(ConvSpecSchema, spec);
    if (error) {
      const found = caught(() => resolve(specFromWire(message), inputShape, kernelShape));
      expect(found).toBeInstanceOf(InvalidArgumentError);
      expect({ field: (found as InvalidArgumentError).field, message: (found as Error).message }).toEqual(error);
      return;
    }
    const g = resolve(specFromWire(message), inputShape, kernelShape);
    expect(g).toMatchObject({ ...geometry });
    expect(g.weightShape).toEqual(kernelShape);
  });

  test.each(read<GeometryCase>("geometry").filter((c) => c.geometry))("$name: the message of its spec", ({ spec }) => {
    const parsed = specFromWire(fromJson(ConvSpecSchema, spec));
    expect(specFromWire(specToWire(parsed))).toEqual(parsed);
  });
});

test("a spec shows what is not a default", () => {
  expect(String(new ConvSpec({ stride: 2, activation: "relu" }))).toBe(`ConvSpec(stride: 2, activation: 'relu')`);
  expect(String(new ConvSpec())).toBe("ConvSpec()");
});

test("the receptive field of a stack", () => {
  const first = resolve(new ConvSpec({ stride: 2 }), [1, 3, 224, 224], [64, 3, 7, 7]);
  const second = resolve(new ConvSpec({ dilation: 2 }), first.outputShape, [64, 64, 3, 3]);
  expect(receptiveField([first, second])).toEqual([15, 15]);
  expect(receptiveField([])).toEqual([]);
  const line = resolve(new ConvSpec(), [1, 1, 9], [1, 1, 3]);
  expect(() => receptiveField([first, line])).toThrow("layers: expected convolutions of one rank, got ranks [2, 1]");
});

test("values of the wrong kind are refused before they are compared", () => {
  const wrong = { stride: 1.5, padding: "some", groups: true, dilation: "2" } as const;
  for (const [name, value] of Object.entries(wrong)) {
    expect(caught(() => new ConvSpec({ [name]: value }))).toMatchObject({ field: name, got: value });
  }
});
