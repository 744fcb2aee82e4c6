/** The element types of tensors: their code on the wire, their bytes, and the typed array that holds them. */

import { DataType } from "../protocol/groupconv/v1/tensor_pb.js";

/** Element types of convolutions. */
export type ConvolutionDType = "float16" | "bfloat16" | "float32" | "float64" | "int8" | "uint8" | "int32";
/** All element types; those beyond `ConvolutionDType` are for networks, and are converted for convolutions. */
export type DType = ConvolutionDType | "int64" | "bool" | "int16" | "uint16" | "uint32" | "uint64";

/** The arrays that hold elements. float16 and bfloat16 are bits in a Uint16Array, a bool is a byte. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

interface ArrayType {
  readonly name: string;
  readonly BYTES_PER_ELEMENT: number;
  new (length: number): TypedArray;
  new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): TypedArray;
}

interface ElementType {
  readonly code: DataType;
  readonly array: ArrayType;
  readonly float: boolean;
}

const CONVOLUTION: Record<ConvolutionDType, ElementType> = {
  float16: { code: DataType.FLOAT16, array: Uint16Array, float: true },
  bfloat16: { code: DataType.BFLOAT16, array: Uint16Array, float: true },
  float32: { code: DataType.FLOAT32, array: Float32Array, float: true },
  float64: { code: DataType.FLOAT64, array: Float64Array, float: true },
  int8: { code: DataType.INT8, array: Int8Array, float: false },
  uint8: { code: DataType.UINT8, array: Uint8Array, float: false },
  int32: { code: DataType.INT32, array: Int32Array, float: false },
};

/** What each element type is. */
export const DTYPES: Record<DType, ElementType> = {
  ...CONVOLUTION,
  int64: { code: DataType.INT64, array: BigInt64Array, float: false },
  bool: { code: DataType.BOOL, array: Uint8Array, float: false },
  int16: { code: DataType.INT16, array: Int16Array, float: false },
  uint16: { code: DataType.UINT16, array: Uint16Array, float: false },
  uint32: { code: DataType.UINT32, array: Uint32Array, float: false },
  uint64: { code: DataType.UINT64, array: BigUint64Array, float: false },
};

/** The names of `ConvolutionDType`, as errors list them. */
export const SUPPORTED = Object.keys(CONVOLUTION) as ConvolutionDType[];

const BY_CODE = new Map(Object.entries(DTYPES).map(([name, type]) => [type.code, name as DType]));
const BY_ARRAY: Record<string, DType> = {
  Float32Array: "float32",
  Float64Array: "float64",
  Int8Array: "int8",
  Uint8Array: "uint8",
  Buffer: "uint8",
  Uint8ClampedArray: "uint8",
  Int16Array: "int16",
  Uint16Array: "uint16",
  Int32Array: "int32",
  Uint32Array: "uint32",
  BigInt64Array: "int64",
  BigUint64Array: "uint64",
};

/** The dtype of a code on the wire; undefined for an unknown one. */
export function dtypeOfCode(code: DataType): DType | undefined {
  return BY_CODE.get(code);
}

/** The dtype that a typed array holds if nothing else is said; undefined for something else. */
export function dtypeOfArray(data: object): DType | undefined {
  return BY_ARRAY[data.constructor.name];
}

/** Whether convolutions take this dtype as it is. */
export function isSupported(dtype: string): dtype is ConvolutionDType {
  return Object.hasOwn(CONVOLUTION, dtype);
}

/** Whether it is one of the four float dtypes. */
export function isFloat(dtype: DType): boolean {
  return DTYPES[dtype].float;
}

/** Bytes of an element. */
export function itemSize(dtype: DType): number {
  return DTYPES[dtype].array.BYTES_PER_ELEMENT;
}
