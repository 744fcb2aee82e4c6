/** Networks as the server describes them: their tensors, and the checks of a call's inputs. */

import { InvalidArgumentError } from "../errors.js";
import { convertedTo } from "../tensors/convert.js";
import { isFloat, type DType } from "../tensors/dtypes.js";
import type { Tensor } from "../tensors/tensor.js";
import { grouped, shown, Words } from "../text.js";
import { foremost, type NetworkState } from "./state.js";

/** An input or an output of a network. */
export class TensorInfo {
  constructor(
    /** In the model. */
    readonly name: string,
    readonly dtype: DType,
    /** For each axis its extent, or the model's name for it if any extent is accepted, or null without a name. */
    readonly shape: readonly (number | string | null)[],
  ) {}

  toString(): string {
    return `${this.name}: ${this.dtype} (${this.shape.map((extent) => extent ?? "?").join(", ")})`;
  }
}

/** A loaded network and its usage. */
export class NetworkInfo {
  constructor(
    readonly name: string,
    /** Each load under a name gets a higher one. */
    readonly version: number,
    /** In the model's order. */
    readonly inputs: readonly TensorInfo[],
    readonly outputs: readonly TensorInfo[],
    /** Number of operators. */
    readonly nodes: number,
    readonly weights: number,
    /** Bytes that count against the server's quota. */
    readonly bytes: number,
    /** Requests that this version answered. */
    readonly requests: number,
    readonly failures: number,
    /** Total time from a parsed request to its outputs. */
    readonly seconds: number,
    /** Who answers calls, for each set of input shapes on each worker. */
    readonly states: readonly NetworkState[] = [],
  ) {}

  /** One of `states`: one that is under way, else one that is settled. */
  get state(): NetworkState {
    return foremost(this.states, this.requests);
  }

  /** Whether nothing is compiled or measured. */
  get settled(): boolean {
    return this.states.every((state) => state.settled);
  }

  toString(): string {
    const head = `${this.name}, version ${this.version}: ${this.nodes} nodes, ${grouped(this.weights)} weights`;
    return [head, ...this.inputs.map((i) => `input  ${i}`), ...this.outputs.map((o) => `output ${o}`)].join("\n");
  }
}

/**
 * Checks the shapes of one call's inputs. Axes that the model calls by one name have one extent.
 *
 * @throws InvalidArgumentError if an input is missing or unknown, or a shape does not fit.
 */
export function checkShapes(infos: readonly TensorInfo[], shapes: Readonly<Record<string, readonly number[]>>): void {
  const wanted = infos.map((info) => info.name);
  const called = `inputs called ${wanted.map(shown).join(", ") || "nothing"}`;
  for (const name of Object.keys(shapes)) {
    if (!wanted.includes(name)) throw InvalidArgumentError.of("inputs", called, new Words(shown(name)));
  }
  const chosen = new Map<string, { extent: number; at: string }>();
  for (const info of infos) {
    const shape = shapes[info.name];
    if (shape === undefined) throw InvalidArgumentError.of("inputs", called, `none called ${info.name}`);
    const field = `inputs[${shown(info.name)}].shape`;
    if (shape.length !== info.shape.length) {
      throw InvalidArgumentError.of(
        field,
        `${info.shape.length} axes, as in ${info}`,
        new Words(`[${shape.join(", ")}]`),
      );
    }
    shape.forEach((extent, i) => {
      const [at, known] = [`${field}[${i}]`, info.shape[i]!];
      if (extent < 0) throw InvalidArgumentError.of(at, "an extent of at least 0", extent);
      if (typeof known === "number" && extent !== known) throw InvalidArgumentError.of(at, String(known), extent);
      if (typeof known !== "string") return;
      const first = chosen.get(known) ?? { extent, at };
      chosen.set(known, first);
      if (extent !== first.extent) {
        throw InvalidArgumentError.of(at, `${first.extent}, which axis ${shown(known)} has in ${first.at}`, extent);
      }
    });
  }
}

/**
 * An input in the network's dtype: floats are converted to its float dtype, anything else if no value changes.
 *
 * @throws InvalidArgumentError if it has another dtype.
 */
export function converted(info: TensorInfo, x: Tensor): Tensor {
  const floats = isFloat(x.dtype) && isFloat(info.dtype);
  if (x.dtype !== info.dtype && !floats && !keepsValues(x.dtype, info.dtype)) {
    throw InvalidArgumentError.of(`inputs[${shown(info.name)}].dtype`, info.dtype, x.dtype);
  }
  return convertedTo(x, info.dtype);
}

/** Whether a dtype of integers can be converted without changing values, by NumPy's rule "safe". */
function keepsValues(from: DType, to: DType): boolean {
  if (from === "bool") return true;
  if (to === "bool" || isFloat(from)) return false;
  const bits = (dtype: DType) => Number(/\d+$/.exec(dtype)![0]);
  if (isFloat(to)) return bits(from) === 8 || to === "float64" || (to === "float32" && bits(from) === 16);
  const [signed, wider] = [from.startsWith("i"), bits(to) > bits(from)];
  return to.startsWith("i") ? wider || (signed && bits(to) === bits(from)) : !signed && wider;
}
