/** Tensors converted from one element type to another. */

import { DTYPES, type DType, type TypedArray } from "./dtypes.js";
import { bfloat16Bits, bfloat16Value, float16Bits, float16Value } from "./halves.js";
import { Tensor } from "./tensor.js";

/** The elements as numbers; 64-bit integers lose what a number cannot hold. */
export function numbersOf(x: Tensor): ArrayLike<number> {
  const data: TypedArray = x.data;
  if (x.dtype === "float16") return Float32Array.from(data as Uint16Array, float16Value);
  if (x.dtype === "bfloat16") return Float32Array.from(data as Uint16Array, bfloat16Value);
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) return Float64Array.from(data, Number);
  return data;
}

/** A tensor of another dtype: rounded to nearest for floats, wrapped as typed arrays do for integers. */
export function convertedTo(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  const values = numbersOf(x);
  const data = new DTYPES[dtype].array(values.length);
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
    for (let i = 0; i < values.length; i++) data[i] = BigInt(Math.trunc(values[i]!));
  } else {
    const bits = dtype === "float16" ? float16Bits : dtype === "bfloat16" ? bfloat16Bits : undefined;
    if (bits === undefined) data.set(values);
    else for (let i = 0; i < values.length; i++) data[i] = bits(values[i]!);
  }
  return new Tensor(data, x.shape, dtype);
}
