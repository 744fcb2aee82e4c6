import { describe, expect, test } from "vitest";
import { Tensor } from "../src/index.js";
import { bfloat16Bits, bfloat16Value, float16Bits, float16Value } from "../src/tensors/halves.js";

describe("float16", () => {
  test("every number has its own bits", () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = float16Value(bits);
      if (Number.isNaN(value)) expect(float16Value(float16Bits(value))).toBeNaN();
      else if (float16Bits(value) !== bits) expect.fail(`${bits}: ${value} has the bits ${float16Bits(value)}`);
    }
  });

  test.each([
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [65519.99, 0x7bff],
    [65520, 0x7c00], // half way to the next: infinity
    [2 ** -24, 1],
    [2 ** -25, 0], // a tie: to even
    [2 ** -25 * 1.0001, 1],
    [3 * 2 ** -25, 2],
    [1 + 2 ** -11, 0x3c00], // a tie: to even
    [1 + 3 * 2 ** -11, 0x3c02],
    [2 ** -14 - 2 ** -26, 0x400], // rounds up to the smallest normal number
    [-0, 0x8000],
    [Infinity, 0x7c00],
  ])("%d rounds to nearest, ties to even", (value, bits) => expect(float16Bits(value)).toBe(bits));
});

describe("bfloat16", () => {
  test.each([
    [1, 0x3f80],
    [1 + 2 ** -8, 0x3f80],
    [1 + 3 * 2 ** -8, 0x3f82],
    [3.4e38, 0x7f80],
    [-0.5, 0xbf00],
    [NaN, 0x7fc0],
  ])("%d rounds to nearest, ties to even", (value, bits) => expect(bfloat16Bits(value)).toBe(bits));

  test("every number has its own bits", () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = bfloat16Value(bits);
      if (!Number.isNaN(value) && bfloat16Bits(value) !== bits) expect.fail(`${bits}: ${bfloat16Bits(value)}`);
    }
  });
});

describe("Tensor", () => {
  test("of nested arrays, and back", () => {
    const nested = [[[1, 2, 3]], [[4, 5, 6]]];
    const x = Tensor.from(nested);
    expect(x.shape).toEqual([2, 1, 3]);
    expect(x.data).toBeInstanceOf(Float32Array);
    expect(x.toNested()).toEqual(nested);
    expect(Tensor.from([[0.1, -2]], "float16").toNested()).toEqual([[Math.fround(0.0999755859375), -2]]);
    expect(Tensor.from(Tensor.from([1, 300, -1]), "uint8").data).toEqual(new Uint8Array([1, 44, 255]));
    expect(Tensor.from([1, -2], "int64").data).toEqual(new BigInt64Array([1n, -2n]));
  });

  test("the dtype of an array, and one that is said", () => {
    expect(new Tensor(new Int8Array(2), [2]).dtype).toBe("int8");
    expect(new Tensor(Buffer.from([1, 2]), [2]).dtype).toBe("uint8");
    expect(new Tensor(new Uint16Array(2), [2], "bfloat16").dtype).toBe("bfloat16");
  });

  test.each([
    [() => new Tensor(new Float32Array(5), [2, 3]), "data: expected 6 elements for shape [2, 3], got 5 elements"],
    [
      () => new Tensor(new Float32Array(2), [2], "float16"),
      "data: expected a Uint16Array for float16, got Float32Array",
    ],
    [() => Tensor.from([[1, 2], [3]]), "values: expected nested arrays of one shape, got arrays of different lengths"],
    [() => Tensor.from([[1, 2], 3] as never), "values: expected nested arrays of one shape"],
  ])("%# what does not fit is refused", (make, message) => expect(make).toThrow(message));
});
