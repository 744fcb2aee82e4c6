/** Networks on the server: `client.loadNetwork(...)` returns one. */

import { create } from "@bufbuild/protobuf";
import { DataLossError, FailedPreconditionError, InvalidArgumentError } from "../errors.js";
import {
  NetworkService,
  PlanNetworkRequestSchema,
  RunNetworkRequestSchema,
} from "../protocol/groupconv/v1/network_pb.js";
import { asTensor, Tensor, type TensorLike } from "../tensors/tensor.js";
import { shown } from "../text.js";
import type { CallLimits, Calls } from "../transport/calls.js";
import { cutToWire, type CutOfNetwork } from "../wire/cuts.js";
import { networkPlanFromWire, networkReportFromWire, shapesToWire, type Shapes } from "../wire/networks.js";
import { tensorFromWire, tensorToWire } from "../wire/tensors.js";
import { checkShapes, converted, type NetworkInfo, type TensorInfo } from "./info.js";
import type { NetworkPlan, NetworkResult } from "./plan.js";
import type { NetworkState } from "./state.js";

/** Milliseconds between two looks at a state. */
const PAUSE = 200;

/** What a network needs of its client. */
export interface NetworkHome {
  getNetwork(name: string): Promise<Network>;
  unloadNetwork(name: string): Promise<void>;
}

/** The inputs of a call by name. */
export type NetworkInputs = Readonly<Record<string, TensorLike>>;

/** Options of a plan: workers to cut the network over, which need not exist. */
export interface NetworkPlanOptions extends CallLimits {
  /** Any number of workers; 0 leaves `plan.cuts` out. */
  workers?: number;
  /** Calls at a time that share these workers. */
  inFlight?: number;
  /** Nodes that have them; what crosses between nodes goes by TCP. */
  nodes?: number;
}

/**
 * A network on the server. A call runs the version that is currently loaded under the name.
 *
 * @example
 * const net = await client.loadNetwork("ocr/det", readFileSync("det.onnx"));
 * const y = await net.forward(image);
 */
export class Network {
  constructor(
    /** The description from when the network was loaded. */
    readonly info: NetworkInfo,
    private readonly calls: Calls,
    private readonly home: NetworkHome,
  ) {}

  /** The network's name. */
  get name(): string {
    return this.info.name;
  }

  /** The inputs, in the model's order. */
  get inputs(): readonly TensorInfo[] {
    return this.info.inputs;
  }

  /** The outputs, in the model's order. */
  get outputs(): readonly TensorInfo[] {
    return this.info.outputs;
  }

  /**
   * The first output for inputs in the network's order. A float input is converted to the network's float dtype; another one
   * if that changes no value. `run` has all outputs.
   *
   * @throws InvalidArgumentError naming the input, what was expected and what came.
   */
  async forward(...inputs: TensorLike[]): Promise<Tensor> {
    if (inputs.length > this.inputs.length) {
      throw InvalidArgumentError.of("inputs", `at most ${this.inputs.length} arrays`, `${inputs.length} of them`);
    }
    const named = Object.fromEntries(inputs.map((input, i) => [this.inputs[i]!.name, input]));
    const first = this.outputs[0]!.name;
    return (await this.#run(named, [first], {}, false)).outputs[first]!;
  }

  /**
   * Outputs and report.
   *
   * @param inputs by name; a single input need not be named.
   * @param options.outputs names of those wanted; without it all.
   * @param options.cut what to cut the network along over the workers: "nothing", "samples", "channels", "rows" or "columns";
   * "planned", each tensor as the planner says; or a plan over workers, which is followed. Without it the server decides.
   * @param options.times whether `plan` is to show the time of each node. Where onnxruntime answers, the network runs again for
   * it, and the answer waits; a program has its times from when it was measured.
   */
  async run(
    inputs: NetworkInputs | TensorLike,
    options: CallLimits & { outputs?: readonly string[]; cut?: CutOfNetwork; times?: boolean } = {},
  ): Promise<NetworkResult> {
    return this.#run(this.#named(inputs), options.outputs ?? [], options, true, options.cut, options.times);
  }

  /**
   * What a call with inputs of these shapes would compute, node by node, and how it would be cut over workers.
   *
   * @example
   * const { cuts } = await net.plan([1, 3, 224, 224], { workers: 8, nodes: 2 });
   * @throws FailedPreconditionError if workers are asked for, and shapes in the network depend on what it computes.
   */
  async plan(shapes: Shapes | readonly number[], options: NetworkPlanOptions = {}): Promise<NetworkPlan> {
    const given = (Array.isArray(shapes) ? { [this.inputs[0]!.name]: shapes as number[] } : shapes) as Shapes;
    checkShapes(this.inputs, given);
    const { workers = 0, inFlight = 1, nodes = 1 } = options;
    for (const [field, value, least] of [
      ["workers", workers, 0],
      ["inFlight", inFlight, 1],
      ["nodes", nodes, 1],
    ] as const) {
      // prettier-ignore
      if (!Number.isInteger(value) || value < least || value >= 2 ** 31) {
        throw InvalidArgumentError.of(field, `a number from ${least}`, value);
      }
    }
    const inputs = shapesToWire(given);
    const request = create(PlanNetworkRequestSchema, { network: this.name, inputs, workers, inFlight, nodes });
    return networkPlanFromWire(await this.calls.unary(NetworkService.method.planNetwork, request, options));
  }

  /** The server's current description: version, bytes, requests, seconds. */
  async statistics(): Promise<NetworkInfo> {
    return (await this.home.getNetwork(this.name)).info;
  }

  /** Who answers the calls of this network now, and how far its program is. */
  async state(): Promise<NetworkState> {
    return (await this.statistics()).state;
  }

  /**
   * Waits until no program of this network is compiled or measured. The first call of a network has one made for it.
   *
   * @param options.progress called with each state.
   * @param options.signal ends it early.
   * @throws FailedPreconditionError if the network was not called yet.
   */
  async wait(options: { progress?: (state: NetworkState) => void; signal?: AbortSignal } = {}): Promise<NetworkState> {
    for (;;) {
      options.signal?.throwIfAborted();
      const info = await this.statistics();
      if (!info.requests) {
        throw new FailedPreconditionError(`network ${this.name} was not called yet, so nothing is compiled`);
      }
      options.progress?.(info.state);
      if (info.settled) return info.state;
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }

  /** Removes the network from the server. */
  async unload(): Promise<void> {
    await this.home.unloadNetwork(this.name);
  }

  async #run(
    inputs: NetworkInputs,
    outputs: readonly string[],
    limits: CallLimits,
    report: boolean,
    cut?: CutOfNetwork,
    times = false,
  ): Promise<NetworkResult> {
    const known = this.outputs.map((output) => output.name);
    for (const name of outputs) {
      if (!known.includes(name)) {
        throw InvalidArgumentError.of("outputs", `names of ${known.map(shown).join(", ")}`, name);
      }
    }
    const given = Object.entries(inputs).map(([name, x]) => [name, asTensor(x, `inputs[${shown(name)}]`)] as const);
    checkShapes(this.inputs, Object.fromEntries(given.map(([name, x]) => [name, x.shape])));
    const tensors = new Map(given);
    const request = create(RunNetworkRequestSchema, {
      network: this.name,
      names: this.inputs.map((info) => info.name),
      inputs: this.inputs.map((info) => tensorToWire(converted(info, tensors.get(info.name)!))),
      outputs: [...outputs],
      withoutReport: !report,
      times,
      ...cutToWire(cut),
    });
    const response = await this.calls.unary(NetworkService.method.runNetwork, request, limits);
    if (response.names.length !== response.outputs.length) {
      throw new DataLossError(`the server sent ${response.outputs.length} outputs and ${response.names.length} names`);
    }
    const made = response.outputs.map((output, i) => [response.names[i]!, tensorFromWire(output, `outputs[${i}]`)]);
    return { outputs: Object.fromEntries(made), report: networkReportFromWire(response.report) };
  }

  #named(inputs: NetworkInputs | TensorLike): NetworkInputs {
    const single = inputs instanceof Tensor || Array.isArray(inputs) || ("data" in inputs && "shape" in inputs);
    return single ? { [this.inputs[0]!.name]: inputs as TensorLike } : (inputs as NetworkInputs);
  }
}
