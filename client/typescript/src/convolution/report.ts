/** Reports: how a server ran the shards of a request. */

import type { Tensor } from "../tensors/tensor.js";
import { milliseconds, table } from "../text.js";
import type { Plan } from "./plan.js";

/** How one shard ran. */
export interface ShardReport {
  readonly index: number;
  readonly worker: string;
  /** The algorithm that the engine chose. */
  readonly algorithm: string;
  /** From dispatch to result, with transfer and waiting. */
  readonly seconds: number;
  /** Time in the engine. */
  readonly computeSeconds: number;
  /** Number of starts; more than 1 if a worker was lost. */
  readonly attempts: number;
  /** Whether a better algorithm is being compiled or measured, which later requests get. */
  readonly improving: boolean;
}

/** How a request ran: its plan, each step's shards, and the seconds of each phase. `String(report)` shows tables. */
export class Report {
  constructor(
    readonly plan: Plan,
    readonly steps: readonly (readonly ShardReport[])[],
    readonly phases: Readonly<Record<string, number>>,
  ) {}

  toString(): string {
    const heading = ["shard", "worker", "algorithm", "predicted", "in the engine", "dispatch to result", "attempts"];
    const blocks = this.steps.map((shards, i) => {
      const step = this.plan.steps[i];
      const measured = milliseconds(Math.max(0, ...shards.map((s) => s.seconds)));
      const rows = shards.map((s, j) => [
        String(s.index),
        s.worker,
        s.algorithm,
        milliseconds(step?.shards[j]?.seconds ?? 0),
        milliseconds(s.computeSeconds),
        milliseconds(s.seconds),
        String(s.attempts),
      ]);
      const head = `step ${i}  cut along ${step?.cut}: predicted ${milliseconds(step?.seconds ?? 0)}, measured ${measured}`;
      return `${head}\n${table([heading, ...rows], [1, 2])}`;
    });
    const phases = Object.entries(this.phases).map(([name, seconds]) => `${name} ${milliseconds(seconds)}`);
    return [...blocks, ...(phases.length ? [`phases: ${phases.join(", ")}`] : [])].join("\n\n");
  }
}

/** The output of a request, and a report of how the server computed it. */
export interface Result {
  /** (N, M, *spatial), or (M, *spatial) if the input had no batch axis. */
  readonly output: Tensor;
  readonly report: Report;
}
