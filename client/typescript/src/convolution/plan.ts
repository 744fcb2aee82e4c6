/** Plans: how a server cuts a request into shards. */

import { sizeOf } from "../tensors/tensor.js";
import { counted, grouped, humanBytes, milliseconds, table, tuple } from "../text.js";
import { receptiveField, strideOf, type Window } from "./windows.js";

const MOST_SHARDS = 64;
const MOST_ALTERNATIVES = 6;

/** Indices from `start` up to, not including, `stop`. A stop beyond the dimension wraps around (circular padding). */
export interface Range {
  readonly start: number;
  readonly stop: number;
}

/** The part of one step that one worker runs. */
export interface Shard {
  /** Position in its step. */
  readonly index: number;
  /** Id of the worker that runs it. */
  readonly worker: string;
  /** A range per dimension of the step's input (N, C, …). */
  readonly input: readonly Range[];
  readonly kernel: readonly Range[];
  readonly output: readonly Range[];
  /** Bytes of input and kernel sent to the worker. */
  readonly bytesIn: number;
  /** Bytes of output returned. */
  readonly bytesOut: number;
  readonly multiplyAdds: number;
  /** Predicted time in the engine. */
  readonly seconds: number;
  /** Whether the output is one term of a sum over the shards with the same output range. */
  readonly partial: boolean;
}

/** Another cut that the planner considered. */
export interface Alternative {
  readonly cut: string;
  readonly shards: number;
  readonly seconds: number;
  /** Whether the cut has run, so that its time was measured. */
  readonly measured: boolean;
}

/** How one step is cut into shards, and why. */
export interface StepPlan {
  /** The kind of convolution, such as "grouped". */
  readonly variant: string;
  readonly inputShape: readonly number[];
  readonly kernelShape: readonly number[];
  readonly outputShape: readonly number[];
  readonly groups: number;
  /** The dimension that is cut. */
  readonly cut: string;
  /** Why the planner chose it. */
  readonly reason: string;
  readonly shards: readonly Shard[];
  /** Predicted time from dispatch to merged output, or the measured one. */
  readonly seconds: number;
  /** Other cuts that were considered, cheapest first. */
  readonly alternatives: readonly Alternative[];
  /** Whether each shard continues on its own part of the previous step's output, on the same worker. */
  readonly joined: boolean;
  readonly stride: readonly number[];
  readonly dilation: readonly number[];
  readonly transposed: boolean;
  readonly measured: boolean;
}

/** How a request is cut, one `StepPlan` for each of its steps. `String(plan)` shows tables. */
export class Plan {
  constructor(readonly steps: readonly StepPlan[]) {}

  /** The window of each step, for `receptiveField`. */
  get windows(): readonly Window[] {
    return this.steps.map((s) => ({
      kernel: s.kernelShape.slice(2),
      stride: s.stride,
      dilation: s.dilation,
      transposed: s.transposed,
    }));
  }

  /** Number of kernel weights of all steps, without biases. */
  get weights(): number {
    return this.steps.reduce((sum, s) => sum + sizeOf(s.kernelShape), 0);
  }

  /** Multiply-adds of all steps; their shards may repeat some, for halos. */
  get multiplyAdds(): number {
    return this.steps.reduce((sum, s) => sum + multiplyAdds(s), 0);
  }

  /** Input elements per axis that one output of the last step depends on, from the first to the last. */
  get receptiveField(): number[] {
    return receptiveField(this);
  }

  /** Input elements per axis between two neighboring outputs of the last step. */
  get stride(): number[] {
    return strideOf(this.windows);
  }

  /** All workers that run a shard, in order of appearance. */
  get workers(): string[] {
    return [...new Set(this.steps.flatMap((s) => s.shards.map((shard) => shard.worker)))];
  }

  /** Time of all steps together. */
  get seconds(): number {
    return this.steps.reduce((sum, s) => sum + s.seconds, 0);
  }

  /** Text with the shards of every step, the reason for each cut, and the alternatives. */
  toString(): string {
    return this.steps.map(explained).join("\n\n");
  }
}

/** Multiply-adds of a step as a whole. */
export function multiplyAdds(step: StepPlan): number {
  const spatial = (step.transposed ? step.inputShape : step.outputShape).slice(2);
  return (step.outputShape[0] ?? 0) * sizeOf(step.kernelShape) * sizeOf(spatial);
}

function explained(step: StepPlan, index: number): string {
  const groups = step.groups > 1 ? `, g=${step.groups}` : "";
  const shapes = `${tuple(step.inputShape)} * ${tuple(step.kernelShape)} -> ${tuple(step.outputShape)}`;
  const how = (measured: boolean) => (measured ? "measured" : "predicted");
  const ranges = (values: readonly Range[]) => `[${values.map((r) => `${r.start}:${r.stop}`).join(", ")}]`;
  const rows = step.shards
    .slice(0, MOST_SHARDS)
    .map((s) => [
      String(s.index),
      s.worker,
      ranges(s.input),
      ranges(s.kernel),
      ranges(s.output),
      humanBytes(s.bytesIn),
      humanBytes(s.bytesOut),
      grouped(s.multiplyAdds),
      milliseconds(s.seconds),
    ]);
  const heading = [
    "shard",
    "worker",
    "input",
    "kernel",
    "output",
    "bytes in",
    "bytes out",
    "multiply-adds",
    "predicted",
  ];
  const lines = [
    `step ${index}  ${step.variant} convolution${groups}: ${shapes}`,
    `${grouped(sizeOf(step.kernelShape))} weights, ${grouped(multiplyAdds(step))} multiply-adds`,
    `cut along ${step.cut}${step.joined ? ", joined to the step before" : ""}: ${step.reason}`,
    table([heading, ...rows], [1, 2, 3, 4]),
  ];
  if (step.shards.length > MOST_SHARDS) lines.push(`… and ${step.shards.length - MOST_SHARDS} more`);
  if (step.alternatives.length) {
    lines.push(`${how(step.measured)} ${milliseconds(step.seconds)}; considered as well:`);
    for (const a of step.alternatives.slice(0, MOST_ALTERNATIVES)) {
      lines.push(`  ${a.cut}: ${counted(a.shards, "shard")}, ${milliseconds(a.seconds)} ${how(a.measured)}`);
    }
  }
  return lines.join("\n");
}
