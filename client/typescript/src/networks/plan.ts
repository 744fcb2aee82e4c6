/** What a call of a network computes, and how one was answered. */

import { grouped, humanBytes, milliseconds, table } from "../text.js";
import type { Tensor } from "../tensors/tensor.js";
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
}

/** Operators that were run as one. */
export interface PartReport {
  readonly algorithm: string;
  readonly nodes: number;
  readonly seconds: number;
  /** Why this algorithm ran them. */
  readonly reason: string;
}

/** How a call was answered. */
export class NetworkReport {
  constructor(
    readonly worker: string,
    readonly parts: readonly PartReport[],
    /** Bytes of inputs and outputs that passed through the coordinator. */
    readonly coordinatorBytes: number,
    readonly seconds: number,
  ) {}

  toString(): string {
    const head = `${milliseconds(this.seconds)} on ${this.worker}, ${humanBytes(this.coordinatorBytes)} in and out`;
    const parts = this.parts.map(
      (p) => `${p.nodes} nodes by ${p.algorithm} in ${milliseconds(p.seconds)}: ${p.reason}`,
    );
    return [head, ...parts].join("\n");
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
    const totals = `${grouped(this.weights)} weights, ${grouped(this.multiplyAdds)} multiply-adds`;
    const lines = [table([heading, ...rows], [0, 1, 2, 3, 6]), `${totals}, ${humanBytes(this.peakBytes)} at most`];
    lines.push(...this.outputs.map((output) => `output ${output}`));
    return (this.last ? [...lines, `last call: ${this.last}`] : lines).join("\n");
  }
}
