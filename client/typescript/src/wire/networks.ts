/** Messages of networks to values and back. */

import { create } from "@bufbuild/protobuf";
import { DataLossError } from "../errors.js";
import { NetworkInfo, TensorInfo } from "../networks/info.js";
import { NetworkPlan, NetworkReport } from "../networks/plan.js";
import { NetworkState, PHASES } from "../networks/state.js";
import {
  AxisSchema,
  LoadNetworkRequestSchema,
  NetworkHeaderSchema,
  NetworkInputsSchema,
  NetworkPhase,
  TensorInfoSchema,
  type LoadNetworkRequest,
  type Network,
  type NetworkReport as ReportMessage,
  type NetworkState as StateMessage,
  type PlanNetworkResponse,
  type TensorInfo as TensorInfoMessage,
} from "../protocol/groupconv/v1/network_pb.js";
import { dtypeOfCode } from "../tensors/dtypes.js";
import { cutsFromWire } from "./cuts.js";
import { chunksOf } from "./layers.js";

/** Shapes by the names of inputs. */
export type Shapes = Readonly<Record<string, readonly number[]>>;

/** The messages that load a network: a header, then the model in chunks. */
export function* loadNetworkMessages(
  name: string,
  model: Uint8Array,
  inputs: readonly Shapes[],
): Iterable<LoadNetworkRequest> {
  const header = create(NetworkHeaderSchema, {
    name,
    byteSize: BigInt(model.length),
    inputs: inputs.map((shapes) => create(NetworkInputsSchema, { inputs: shapesToWire(shapes) })),
  });
  yield create(LoadNetworkRequestSchema, { part: { case: "header", value: header } });
  yield* chunksOf(model, (value) => create(LoadNetworkRequestSchema, { part: { case: "chunk", value } }));
}

/** Input shapes by name. */
export function shapesToWire(shapes: Shapes): TensorInfoMessage[] {
  return Object.entries(shapes).map(([name, shape]) =>
    create(TensorInfoSchema, { name, axes: shape.map((extent) => create(AxisSchema, { extent: BigInt(extent) })) }),
  );
}

/** The description of a network. */
export function networkFromWire(message: Network): NetworkInfo {
  return new NetworkInfo(
    message.name,
    Number(message.version),
    message.inputs.map(infoFromWire),
    message.outputs.map(infoFromWire),
    Number(message.nodes),
    Number(message.weights),
    Number(message.bytes),
    Number(message.requests),
    Number(message.failures),
    message.seconds,
    message.states.map(stateFromWire),
  );
}

/** Who answers calls; a phase that this client does not know is one that waits. */
function stateFromWire(message: StateMessage): NetworkState {
  const phase = (NetworkPhase[message.phase] ?? "").toLowerCase();
  const shapes = message.inputs.map((info) => [info.name, info.axes.map((axis) => Number(axis.extent))] as const);
  return new NetworkState(
    PHASES.find((known) => known === phase) ?? "waiting",
    message.worker,
    Object.fromEntries(shapes),
    Number(message.kernelsCompiled),
    Number(message.kernels),
    message.reason,
    new Date(message.since * 1e3),
  );
}

/** What a call computes. */
export function networkPlanFromWire(message: PlanNetworkResponse): NetworkPlan {
  const nodes = message.nodes.map((node) => ({
    name: node.name,
    op: node.op,
    shape: node.shape ? node.shape.extents.map(Number) : null,
    weights: Number(node.weights),
    multiplyAdds: Number(node.multiplyAdds),
    algorithm: node.algorithm,
    inputs: node.inputs,
    outputs: node.outputs,
    receptiveField: node.receptiveField.length ? node.receptiveField.map(Number) : null,
    stride: node.stride.length ? node.stride : null,
    window: node.window,
    seconds: node.seconds ?? null,
    fusedInto: node.fusedInto,
  }));
  const last = message.last ? networkReportFromWire(message.last) : null;
  const cuts = message.cuts ? cutsFromWire(message.cuts) : null;
  return new NetworkPlan(nodes, message.outputs.map(infoFromWire), Number(message.peakBytes), last, cuts);
}

/** How a call was answered; empty without a message. */
export function networkReportFromWire(message: ReportMessage | undefined): NetworkReport {
  if (!message) return new NetworkReport("", [], 0, 0);
  const parts = message.parts.map(({ algorithm, nodes, seconds, reason }) => ({
    algorithm,
    nodes: Number(nodes),
    seconds,
    reason,
  }));
  const exchanges = message.exchanges.map(({ tensor, bytes, source, target }) => ({
    tensor,
    bytes: Number(bytes),
    source,
    target,
  }));
  const { worker, coordinatorBytes, seconds, cut } = message;
  return new NetworkReport(worker, parts, Number(coordinatorBytes), seconds, exchanges, cut || "nothing");
}

function infoFromWire(message: TensorInfoMessage): TensorInfo {
  const dtype = dtypeOfCode(message.dtype);
  if (!dtype) throw new DataLossError(`the server describes ${message.name} with the unknown dtype ${message.dtype}`);
  const shape = message.axes.map((axis) => axis.name || Number(axis.extent) || null);
  return new TensorInfo(message.name, dtype, shape);
}
