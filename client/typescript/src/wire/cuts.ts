/** Messages of networks that are cut over workers, to values and back. */

import { create } from "@bufbuild/protobuf";
import { InvalidArgumentError } from "../errors.js";
import { NetworkCuts, type Box, type TensorCut } from "../networks/cuts.js";
import { NetworkPlan } from "../networks/plan.js";
import {
  IndexRangeSchema,
  TensorCutSchema,
  WorkerBoxSchema,
  type NetworkCuts as CutsMessage,
  type TensorCut as TensorCutMessage,
} from "../protocol/groupconv/v1/network_pb.js";

/** What a network is to be cut along: a name, or a plan over workers. */
export type CutOfNetwork = string | NetworkPlan | NetworkCuts;

/** The cuts of a network. */
export function cutsFromWire(message: CutsMessage): NetworkCuts {
  return new NetworkCuts(
    message.workers,
    message.tensors.map(tensorFromWire),
    message.seconds,
    message.considered.map(({ workers, seconds }) => ({ workers, seconds })),
    Number(message.inputBytes),
    Number(message.outputBytes),
    message.reason,
    message.nodes,
    Number(message.betweenNodesBytes),
  );
}

/**
 * The fields of a request that say how the network is to be cut.
 *
 * @throws InvalidArgumentError if it is neither a name nor a plan over workers.
 */
export function cutToWire(cut: CutOfNetwork | undefined): { cut: string; cuts: TensorCutMessage[] } {
  if (cut === undefined || typeof cut === "string") return { cut: cut ?? "", cuts: [] };
  const cuts = cut instanceof NetworkPlan ? cut.cuts : cut;
  if (!(cuts instanceof NetworkCuts)) {
    const expected = "a name, or a plan over workers: await net.plan(shape, { workers: 2 })";
    throw InvalidArgumentError.of("cut", expected, cut);
  }
  return { cut: "planned", cuts: cuts.tensors.map(tensorToWire) };
}

function tensorFromWire(message: TensorCutMessage): TensorCut {
  const boxes: (Box | null)[] = Array.from({ length: message.used }, () => null);
  for (const { worker, ranges } of message.boxes) {
    boxes[worker] = ranges.map(({ start, stop }) => [Number(start), Number(stop)] as const);
  }
  return {
    node: message.node,
    op: message.op,
    tensor: message.tensor,
    shape: message.shape?.extents.map(Number) ?? [],
    cut: message.cut,
    boxes,
    exchangedBytes: Number(message.exchangedBytes),
    seconds: message.seconds,
    exchangeSeconds: message.exchangeSeconds,
  };
}

/** What the server reads of a cut that a call brings. */
function tensorToWire({ node, op, tensor, cut, boxes }: TensorCut): TensorCutMessage {
  const made = boxes.flatMap((box, worker) => {
    const ranges = box?.map(([start, stop]) => create(IndexRangeSchema, { start: BigInt(start), stop: BigInt(stop) }));
    return ranges ? [create(WorkerBoxSchema, { worker, ranges })] : [];
  });
  return create(TensorCutSchema, { node, op, tensor, cut, used: boxes.length, boxes: made });
}
