/** What a call of a network computes, and how one was answered. */

import { grouped, humanBytes, milliseconds, table } from "../text.js";
import type { Tensor } from "../tensors/tensor.js";
import type { NetworkCuts } from "./cuts.js";
import type { TensorInfo } from "./info.js";

/** One operator of a call. */
export interface NodePlan {
  /** In the model. */
  readonly name: string;
  readonly op: string;
  /** Of its first output; null if it is not known before the call. */
  readonly shape: readonly number[] | null;
  readonly weights: number;
  /** Of convolutions and matrix products, else 0. */
  readonly multiplyAdds: number;
  /** Who runs it. */
  readonly algorithm: string;
  /** Names of the tensors it reads, without weights. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Elements of the network's input that one output depends on at most, per axis; null if nothing limits it. */
  readonly receptiveField: readonly number[] | null;
  /** Elements of the network's input between neighbors in the output, per axis; null where each depends on the whole. */
  readonly stride: readonly number[] | null;
  /** Of a convolution or pool, for people, such as "5×5, stride 2"; else "". */
  readonly window: string;
  /** In the last run that took the time of each node; null before the first one, and for what is fused into another. */
  readonly seconds: number | null;
  /** Name of the node that the time of this one is part of; empty for others. */
  readonly fusedInto: string;
}

/** Operators that were run as one. */
export interface PartReport {
  readonly algorithm: string;
  readonly nodes: number;
  readonly seconds: number;
  /** Why this algorithm ran them. */
  readonly reason: string;
}

/** What one worker sent to another one, without the coordinator. */
export interface ExchangeReport {
  /** Of which it is a part. */
  readonly tensor: string;
  readonly bytes: number;
  /** Id of the worker that sent it. */
  readonly source: string;
  /** Id of the worker that received it. */
  readonly target: string;
}

/** How a call was answered. */
export class NetworkReport {
  constructor(
    /** Id of the worker that ran it; of a network that was cut, the ids of all with commas between them. */
    readonly worker: string,
    readonly parts: readonly PartReport[],
    /** Bytes of inputs and outputs that passed through the coordinator. */
    readonly coordinatorBytes: number,
    readonly seconds: number,
    /** What the workers of a network that was cut sent each other. */
    readonly exchanges: readonly ExchangeReport[] = [],
    /** What it was cut along over the workers. */
    readonly cut = "nothing",
  ) {}

  toString(): string {
    const head = `${milliseconds(this.seconds)} on ${this.worker}, ${humanBytes(this.coordinatorBytes)} in and out`;
    const parts = this.parts.map(
      (p) => `${p.nodes} nodes by ${p.algorithm} in ${milliseconds(p.seconds)}: ${p.reason}`,
    );
    const sent = new Map<string, number>();
    for (const { bytes, source, target } of this.exchanges) {
      const way = `from ${source} to ${target}`;
      sent.set(way, (sent.get(way) ?? 0) + bytes);
    }
    return [head, ...parts, ...[...sent].map(([way, bytes]) => `${humanBytes(bytes)} ${way}`)].join("\n");
  }
}

/** The outputs of a call, and how they were made. */
export interface NetworkResult {
  /** By name, in the model's order. */
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly report: NetworkReport;
}

/** What a call with inputs of certain shapes computes; `String(plan)` shows a table. */
export class NetworkPlan {
  constructor(
    /** The operators in the order in which they run. */
    readonly nodes: readonly NodePlan[],
    /** With all extents that are known before the call. */
    readonly outputs: readonly TensorInfo[],
    /** Of all tensors that are alive at the same time. */
    readonly peakBytes: number,
    /** How the last call of this version was answered; null before the first one. */
    readonly last: NetworkReport | null,
    /** How the network would be cut over the workers that were asked for; null if none were. */
    readonly cuts: NetworkCuts | null = null,
  ) {}

  /** Number of all weights. */
  get weights(): number {
    return this.nodes.reduce((sum, node) => sum + node.weights, 0);
  }

  /** Multiply-adds of all convolutions and matrix products. */
  get multiplyAdds(): number {
    return this.nodes.reduce((sum, node) => sum + node.multiplyAdds, 0);
  }

  toString(): string {
    const heading = ["node", "operator", "window", "output", "weights", "multiply-adds", "runs on"];
    const number = (value: number) => (value ? grouped(value) : "-");
    const rows = this.nodes.map((node) => [
      ...[node.name, node.op, node.window || "-", node.shape ? node.shape.join("×") || "scalar" : "?"],
      ...[number(node.weights), number(node.multiplyAdds), node.algorithm],
    ]);
    const spent = this.nodes.reduce((sum, node) => sum + (node.seconds ?? 0), 0);
    if (spent) {
      heading.push("time", "of all");
      this.nodes.forEach(({ seconds, fusedInto }, i) => {
        if (seconds === null) rows[i]!.push(fusedInto ? `in ${fusedInto}` : "none", "-");
        else rows[i]!.push(milliseconds(seconds), `${((100 * seconds) / spent).toFixed(1)}%`);
      });
    }
    const totals = `${grouped(this.weights)} weights, ${grouped(this.multiplyAdds)} multiply-adds`;
    const lines = [table([heading, ...rows], [0, 1, 2, 3, 6]), `${totals}, ${humanBytes(this.peakBytes)} at most`];
    lines.push(...this.outputs.map((output) => `output ${output}`));
    if (this.last) lines.push(`last call: ${this.last}`);
    if (this.cuts) lines.push("", String(this.cuts));
    return lines.join("\n");
  }
}
