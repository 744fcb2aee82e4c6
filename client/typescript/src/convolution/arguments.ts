/** Callers' tensors and steps: checked, and converted to supported dtypes, before anything is sent. */

import { InvalidArgumentError } from "../errors.js";
import { convertedTo, numbersOf } from "../tensors/convert.js";
import { isFloat, isSupported, SUPPORTED, type DType } from "../tensors/dtypes.js";
import { asTensor, Tensor, type TensorLike } from "../tensors/tensor.js";
import type { ConvSpec } from "./spec.js";
import { asSpec, geometries, type Step } from "./steps.js";

/** A step with tensors that fit its input. */
export interface ReadyStep {
  readonly kernel: Tensor;
  readonly bias: Tensor | null;
  readonly spec: ConvSpec;
}

/** An input and steps that can be sent. */
export interface Prepared {
  /** (N, C, *spatial). */
  readonly input: Tensor;
  readonly steps: readonly ReadyStep[];
  /** Whether a batch axis was added. */
  readonly unbatched: boolean;
}

/**
 * Tensors ready to send, with shapes and dtypes checked. Kernels and biases are converted to the input's dtype if that is a
 * float. An input without a batch axis gets one.
 *
 * @throws InvalidArgumentError naming the field, what was expected and what came.
 */
export function prepare(x: TensorLike, steps: readonly Step[]): Prepared {
  const [first] = checkedSteps(steps);
  const kernel = asTensor(first!.kernel, "steps[0].kernel");
  let input = supportedInput(asTensor(x, "input"), kernel.dtype);
  const unbatched = input.shape.length === kernel.shape.length - 1;
  if (unbatched) input = input.reshape([1, ...input.shape]);
  const ready = readySteps(steps, input.dtype);
  geometries(
    ready.map((s) => s.spec),
    input.shape,
    ready.map((s) => s.kernel.shape),
  );
  return { input, steps: ready, unbatched };
}

/** @throws InvalidArgumentError if there is no step. */
export function checkedSteps(steps: readonly Step[]): readonly Step[] {
  if (!Array.isArray(steps)) throw InvalidArgumentError.of("steps", "a list of steps, such as [step]", steps);
  if (!steps.length) throw InvalidArgumentError.of("steps", "at least one step", 0);
  return steps as readonly Step[];
}

/** Steps whose kernels and biases are tensors that fit an input of `dtype`. */
export function readySteps(steps: readonly Step[], dtype: DType): ReadyStep[] {
  return steps.map((step, i) => {
    const kernel = supported(`steps[${i}].kernel`, asTensor(step.kernel, `steps[${i}].kernel`), dtype);
    const spec = within(`steps[${i}].spec`, () => asSpec(step.spec));
    if (step.bias === undefined || step.bias === null) return { kernel, bias: null, spec };
    const wanted = isFloat(dtype) ? dtype : kernel.dtype;
    return { kernel, bias: supported(`steps[${i}].bias`, asTensor(step.bias, `steps[${i}].bias`), wanted), spec };
  });
}

/** An input in a supported dtype; the first kernel's dtype decides whether integers become floats. */
export function supportedInput(x: Tensor, kernel: DType): Tensor {
  const wide = kernel === "float32" || kernel === "float64";
  if ((x.dtype === "int16" || x.dtype === "uint16") && wide) return convertedTo(x, kernel);
  if ((x.dtype === "uint32" || x.dtype === "int64" || x.dtype === "uint64") && wide && !fitsInt32(x)) {
    return convertedTo(x, "float64");
  }
  return supported("input", x);
}

/**
 * A tensor in a supported dtype; in `like` if that is a float.
 *
 * @throws InvalidArgumentError if integers do not fit int32.
 */
export function supported(field: string, x: Tensor, like?: DType): Tensor {
  if (like !== undefined && isFloat(like)) return convertedTo(x, like);
  if (isSupported(x.dtype)) return x;
  if (x.dtype === "bool") return new Tensor(x.data, x.shape, "uint8");
  if (!fitsInt32(x)) throw InvalidArgumentError.of(field, "integers that fit int32", x.dtype);
  return convertedTo(x, "int32");
}

/** @throws InvalidArgumentError if convolutions do not have this dtype. */
export function checkedDtype(field: string, dtype: string): DType {
  if (!isSupported(dtype)) throw InvalidArgumentError.of(field, `one of ${SUPPORTED.join(", ")}`, dtype);
  return dtype;
}

function within<T>(path: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw error instanceof InvalidArgumentError ? error.within(path) : error;
  }
}

function fitsInt32(x: Tensor): boolean {
  const values = numbersOf(x);
  for (let i = 0; i < values.length; i++) if (values[i]! < -(2 ** 31) || values[i]! >= 2 ** 31) return false;
  return true;
}
