/** How a network is cut over workers: who makes which part of each tensor, and what crosses. */

import { humanBytes, milliseconds, table } from "../text.js";

/** A part of a tensor: start and stop of each axis. */
export type Box = readonly (readonly [start: number, stop: number])[];

/** One tensor of a network, and the node that makes it. */
export interface TensorCut {
  /** The node's name in the model; fused nodes have the name of their last one. */
  readonly node: string;
  readonly op: string;
  /** Its name. */
  readonly tensor: string;
  /** Of the whole. */
  readonly shape: readonly number[];
  /** In words, as "rows 112|112". */
  readonly cut: string;
  /** What each worker makes; null for a worker that makes nothing of it. */
  readonly boxes: readonly (Box | null)[];
  /** That workers send to one another of it. */
  readonly exchangedBytes: number;
  /** Predicted, of the node on the worker that takes longest. */
  readonly seconds: number;
  /** Predicted, until all that the node reads is there. */
  readonly exchangeSeconds: number;
}

/** A network over several workers; `String(cuts)` shows a table. */
export class NetworkCuts {
  constructor(
    /** How many there are. */
    readonly workers: number,
    /** What the nodes make, in their order. */
    readonly tensors: readonly TensorCut[],
    /** Predicted, of a call. */
    readonly seconds: number,
    /** For each number of workers that was considered, the predicted seconds. */
    readonly considered: readonly { readonly workers: number; readonly seconds: number }[],
    /** That the coordinator sends to workers. */
    readonly inputBytes: number,
    /** That it gets back. */
    readonly outputBytes: number,
    /** Why the network is cut so. */
    readonly reason: string,
    /** How many workers each node has. Workers are numbered by node. */
    readonly nodes: readonly number[],
    /** What crosses between nodes, of `exchangedBytes`. */
    readonly betweenNodesBytes: number,
  ) {}

  /** Workers that make a part of any tensor. */
  get used(): number {
    return Math.max(1, ...this.tensors.map((tensor) => tensor.boxes.length));
  }

  /** Bytes that workers send to one another. */
  get exchangedBytes(): number {
    return this.tensors.reduce((sum, tensor) => sum + tensor.exchangedBytes, 0);
  }

  toString(): string {
    const heading = ["node", "operator", "output", "cut", "sent on", "compute", "exchange"];
    const rows = this.tensors.map((t) => [
      ...[t.node, t.op, t.shape.join("×") || "scalar", t.cut],
      t.exchangedBytes ? humanBytes(t.exchangedBytes) : "-",
      milliseconds(t.seconds),
      t.exchangeSeconds ? milliseconds(t.exchangeSeconds) : "-",
    ]);
    const times = this.considered.map(({ workers, seconds }) => `${milliseconds(seconds)} on ${workers}`).join(", ");
    return [table([heading, ...rows], [0, 1, 2, 3]), this.#totals(), `predicted: ${times}`, this.reason].join("\n");
  }

  #totals(): string {
    const kinds = new Map<string, number>();
    for (const { cut, shape } of this.tensors) {
      const kind = cut.split(" ")[0]!;
      if (kind === "worker" || kind === "every" || shape.every((extent) => extent === 1)) continue;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    const most = [...kinds].sort(([, a], [, b]) => b - a).map(([kind, count]) => `${count} by ${kind}`);
    const crossing = this.nodes.length > 1 ? `, ${humanBytes(this.betweenNodesBytes)} between nodes` : "";
    return (
      `${this.used} of ${this.workers} workers, ${milliseconds(this.seconds)}` +
      `${most.length ? `, tensors cut: ${most.join(", ")}` : ", nothing is cut"}; ${humanBytes(this.inputBytes)} in, ` +
      `${humanBytes(this.outputBytes)} out, ${humanBytes(this.exchangedBytes)} between workers${crossing}`
    );
  }
}
