/** Tensors: a typed array, a shape and an element type. */

import { InvalidArgumentError } from "../errors.js";
import { Words } from "../text.js";
import { convertedTo, numbersOf } from "./convert.js";
import { DTYPES, dtypeOfArray, itemSize, type DType, type TypedArray } from "./dtypes.js";

/** Numbers in nested arrays, such as `[[1, 2], [3, 4]]`. */
export type Nested = readonly (number | Nested)[];

/** What the functions of a client take: a tensor, its parts, or nested arrays of numbers, which become float32. */
export type TensorLike =
  Tensor | { readonly data: TypedArray; readonly shape: readonly number[]; readonly dtype?: DType } | Nested;

/**
 * A dense tensor in row-major order.
 *
 * @example
 * const x = new Tensor(new Float32Array(96 * 27 * 27), [1, 96, 27, 27]);
 * const half = Tensor.from([[0.5, 1.5]], "float16"); // half.data is a Uint16Array of bits
 */
export class Tensor {
  /** The elements; float16 and bfloat16 as bits in a Uint16Array. */
  readonly data: TypedArray;
  /** Extents, outermost first. */
  readonly shape: readonly number[];
  /** The element type. */
  readonly dtype: DType;

  /**
   * @param data the elements; not copied.
   * @param shape extents, outermost first.
   * @param dtype the element type; without it that of the typed array. Needed for float16, bfloat16 and bool.
   * @throws InvalidArgumentError if the number of elements does not fit the shape, or the array does not fit the dtype.
   */
  constructor(data: TypedArray, shape: readonly number[], dtype?: DType) {
    const found = dtype ?? dtypeOfArray(data);
    if (found === undefined) throw InvalidArgumentError.of("data", "a typed array", new Words(typeof data));
    if (!Object.hasOwn(DTYPES, found))
      throw InvalidArgumentError.of("dtype", `one of ${Object.keys(DTYPES).join(", ")}`, found);
    if (data.BYTES_PER_ELEMENT !== itemSize(found)) {
      throw InvalidArgumentError.of(
        "data",
        `a ${DTYPES[found].array.name} for ${found}`,
        new Words(data.constructor.name),
      );
    }
    const size = sizeOf(shape);
    if (data.length !== size) {
      throw InvalidArgumentError.of(
        "data",
        `${size} elements for shape [${shape.join(", ")}]`,
        new Words(`${data.length} elements`),
      );
    }
    this.data = data;
    this.shape = shape;
    this.dtype = found;
  }

  /** Nested arrays, or another tensor, as a tensor of a dtype. */
  static from(values: TensorLike, dtype: DType = "float32"): Tensor {
    const found = asTensor(values, "values");
    return found.dtype === dtype ? found : convertedTo(found, dtype);
  }

  /** A tensor of zeros. */
  static zeros(shape: readonly number[], dtype: DType = "float32"): Tensor {
    return new Tensor(new DTYPES[dtype].array(sizeOf(shape)), shape, dtype);
  }

  /** The elements as numbers: the array itself if it is a Float32Array or Float64Array, else converted. */
  numbers(): ArrayLike<number> {
    return numbersOf(this);
  }

  /** The elements as nested arrays of numbers. */
  toNested(): Nested {
    const values = this.numbers();
    const build = (axis: number, start: number, size: number): Nested => {
      const extent = this.shape[axis] ?? 0;
      const step = extent ? size / extent : 0;
      return Array.from({ length: extent }, (_, i) =>
        axis === this.shape.length - 1 ? values[start + i]! : build(axis + 1, start + i * step, step),
      );
    };
    return build(0, 0, values.length);
  }

  /** The same elements with another shape. */
  reshape(shape: readonly number[]): Tensor {
    return new Tensor(this.data, shape, this.dtype);
  }

  toString(): string {
    return `Tensor((${this.shape.join(", ")}) ${this.dtype})`;
  }
}

/** The number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/**
 * What a caller gives as a tensor.
 *
 * @param x a tensor, its parts, or nested arrays.
 * @param field what errors call it.
 * @throws InvalidArgumentError if it is none of these, or its parts do not fit.
 */
export function asTensor(x: TensorLike, field: string): Tensor {
  if (x instanceof Tensor) return x;
  if (Array.isArray(x)) return nested(x as Nested, field);
  if (typeof x !== "object" || x === null || !("data" in x) || !Array.isArray(x.shape)) {
    throw InvalidArgumentError.of(field, "a tensor: data, a typed array, and shape", new Words(typeof x));
  }
  try {
    return new Tensor(x.data, x.shape, x.dtype);
  } catch (error) {
    throw error instanceof InvalidArgumentError ? error.within(field) : error;
  }
}

function nested(values: Nested, field: string): Tensor {
  const shape: number[] = [];
  for (let inner: number | Nested | undefined = values; Array.isArray(inner); inner = inner[0])
    shape.push(inner.length);
  const flat: number[] = [];
  const visit = (value: number | Nested, axis: number): void => {
    const deeper = Array.isArray(value);
    if (deeper !== axis < shape.length || (deeper && value.length !== shape[axis])) {
      throw InvalidArgumentError.of(field, "nested arrays of one shape", new Words("arrays of different lengths"));
    }
    if (deeper) for (const inner of value) visit(inner, axis + 1);
    else if (typeof value !== "number") throw InvalidArgumentError.of(field, "numbers", new Words(typeof value));
    else flat.push(value);
  };
  visit(values, 0);
  return new Tensor(new Float32Array(flat), shape, "float32");
}
