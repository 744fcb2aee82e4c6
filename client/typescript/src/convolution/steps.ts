/** Steps: what a request runs, one convolution after another. */

import { InvalidArgumentError } from "../errors.js";
import type { TensorLike } from "../tensors/tensor.js";
import { resolve, type Geometry } from "./geometry.js";
import { ConvSpec, type SpecOptions } from "./spec.js";

/** One convolution with its kernel. A request runs one or more steps in order. */
export interface Step {
  /** (M, C/g, *kernel); transposed: (C, M/g, *kernel). */
  readonly kernel: TensorLike;
  /** (M), or null. */
  readonly bias?: TensorLike | null;
  /** The parameters; absent means every default. */
  readonly spec?: ConvSpec | SpecOptions;
}

/** A spec from its options; a `ConvSpec` stays as it is. */
export function asSpec(spec: ConvSpec | SpecOptions | undefined): ConvSpec {
  return spec instanceof ConvSpec ? spec : new ConvSpec(spec);
}

/**
 * The geometry of each step. The output of one step is the input of the next.
 *
 * @throws InvalidArgumentError if the shapes do not fit; the field is a path such as `steps[1].spec.stride`.
 */
export function geometries(
  specs: readonly ConvSpec[],
  inputShape: readonly number[],
  kernelShapes: readonly (readonly number[])[],
): Geometry[] {
  const found: Geometry[] = [];
  let shape = inputShape;
  specs.forEach((spec, i) => {
    try {
      const geometry = resolve(spec, shape, kernelShapes[i]!);
      found.push(geometry);
      shape = geometry.outputShape;
    } catch (error) {
      throw error instanceof InvalidArgumentError ? withPath(error, i) : error;
    }
  });
  return found;
}

function withPath(error: InvalidArgumentError, step: number): InvalidArgumentError {
  if (error.field.startsWith("input")) return step === 0 ? error : error.within(`steps[${step}]`);
  const ofTensor = error.field.startsWith("kernel") || error.field.startsWith("bias");
  return error.within(ofTensor ? `steps[${step}]` : `steps[${step}].spec`);
}
