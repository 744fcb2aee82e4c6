/** The part of a client that is about networks. */

import { create } from "@bufbuild/protobuf";
import { Convolutions } from "../convolutions.js";
import { DataLossError, InvalidArgumentError } from "../errors.js";
import {
  GetNetworkRequestSchema,
  ListNetworksRequestSchema,
  NetworkService,
  UnloadNetworkRequestSchema,
  type Network as NetworkMessage,
} from "../protocol/groupconv/v1/network_pb.js";
import type { CallLimits, Calls } from "../transport/calls.js";
import { loadNetworkMessages, networkFromWire, type Shapes } from "../wire/networks.js";
import type { NetworkInfo } from "./info.js";
import { Network } from "./network.js";

/** Loads, finds and unloads networks. */
export abstract class NetworkClient extends Convolutions {
  constructor(protected readonly calls: Calls) {
    super();
  }

  /**
   * Loads a whole network on the server. If the name exists, this loads a new version, which later requests use. Not in
   * browsers: models travel as a stream.
   *
   * @param name segments of letters, digits, '.', '_' and '-' with '/' between them, such as "ocr/det".
   * @param model the bytes of an ONNX file that holds its weights.
   * @param options.inputs sets of input shapes to prepare for, such as `[{ x: [1, 3, 640, 640] }]`.
   * @throws InvalidArgumentError if a node is not supported; it names the node, what was expected and what came.
   */
  async loadNetwork(
    name: string,
    model: Uint8Array,
    options: CallLimits & { inputs?: readonly Shapes[] } = {},
  ): Promise<Network> {
    checkName(name);
    if (!(model instanceof Uint8Array)) {
      throw InvalidArgumentError.of("model", "the bytes of an ONNX file, such as readFileSync(path)", model);
    }
    const messages = loadNetworkMessages(name, model, options.inputs ?? []);
    return this.#network((await this.calls.upload(NetworkService.method.loadNetwork, messages, options)).network);
  }

  /** A network that is already on the server; rejects with a `NotFoundError` if there is none of this name. */
  async getNetwork(name: string, limits: CallLimits = {}): Promise<Network> {
    checkName(name);
    const request = create(GetNetworkRequestSchema, { name });
    return this.#network((await this.calls.unary(NetworkService.method.getNetwork, request, limits)).network);
  }

  /** The server's descriptions of all networks, sorted by name. */
  async listNetworks(limits: CallLimits = {}): Promise<NetworkInfo[]> {
    const request = create(ListNetworksRequestSchema);
    return (await this.calls.unary(NetworkService.method.listNetworks, request, limits)).networks.map(networkFromWire);
  }

  /** Removes a network from the server, after its running requests have ended. */
  async unloadNetwork(name: string, limits: CallLimits = {}): Promise<void> {
    checkName(name);
    await this.calls.unary(NetworkService.method.unloadNetwork, create(UnloadNetworkRequestSchema, { name }), limits);
  }

  #network(message: NetworkMessage | undefined): Network {
    if (!message) throw new DataLossError("the server's answer describes no network");
    return new Network(networkFromWire(message), this.calls, this);
  }
}

function checkName(name: string): void {
  if (typeof name !== "string") throw InvalidArgumentError.of("name", "a network's name, such as 'ocr/det'", name);
}
