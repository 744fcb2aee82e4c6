/**
 * Messages with one large tensor, written with one copy of its elements.
 *
 * protobuf-es copies a nested `bytes` field once for each message around it. Here the elements are copied once, into the
 * bytes that are sent, where they lie at a multiple of 16. The result is ordinary protobuf.
 *
 * Source: the protobuf encoding guide, "Length-Delimited Records".
 */

import { toBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { ConvolveRequestSchema, type ConvolveRequest } from "../protocol/groupconv/v1/convolution_pb.js";
import { RunNetworkRequestSchema, type RunNetworkRequest } from "../protocol/groupconv/v1/network_pb.js";
import type { Tensor } from "../protocol/groupconv/v1/tensor_pb.js";

const ALIGNMENT = 16;
const [DTYPE, SHAPE, DATA, PADDING] = [1, 2, 3, 4]; // fields of Tensor
const INPUT = 1; // field of ConvolveRequest
const INPUTS = 3; // field of RunNetworkRequest

/** A message on the wire. */
export function serialize<D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array {
  if (schema.typeName === ConvolveRequestSchema.typeName) {
    const { input, ...rest } = message as ConvolveRequest;
    if (input?.data.length) return framed(INPUT, input, toBinary(ConvolveRequestSchema, rest));
  }
  if (schema.typeName === RunNetworkRequestSchema.typeName) {
    const request = message as RunNetworkRequest;
    const [only, ...more] = request.inputs;
    if (only?.data.length && !more.length) {
      return framed(INPUTS, only, toBinary(RunNetworkRequestSchema, { ...request, inputs: [] }));
    }
  }
  return toBinary(schema, message);
}

/** A message whose field `number` is a tensor, beside its other fields `rest`. */
function framed(number: number, tensor: Tensor, rest: Uint8Array): Uint8Array {
  const head = headOf(number, tensor);
  const message = uninitialized(head.length + tensor.data.length + rest.length);
  message.set(head);
  message.set(tensor.data, head.length);
  message.set(rest, head.length + tensor.data.length);
  return message;
}

/** The bytes before the elements, with padding so that their number is a multiple of `ALIGNMENT`. */
function headOf(number: number, tensor: Tensor): Uint8Array {
  let padding = 0; // bytes of the padding field
  for (;;) {
    const kind = new BinaryWriter().tag(DTYPE, WireType.Varint).int32(tensor.dtype);
    kind.tag(SHAPE, WireType.LengthDelimited).fork();
    for (const extent of tensor.shape) kind.int64(extent);
    kind.join();
    if (padding) kind.tag(PADDING, WireType.LengthDelimited).bytes(new Uint8Array(padding - 2));
    const fields = kind.tag(DATA, WireType.LengthDelimited).uint32(tensor.data.length).finish();
    const outer = new BinaryWriter().tag(number, WireType.LengthDelimited).uint32(fields.length + tensor.data.length);
    const head = outer.raw(fields).finish();
    const missing = (ALIGNMENT - (head.length % ALIGNMENT)) % ALIGNMENT;
    if (!missing) return head;
    padding += padding + missing > 1 ? missing : missing + ALIGNMENT; // its tag and length are 2 bytes
  }
}

/** Memory whose bytes are written before they are read: Node need not clear it. */
function uninitialized(length: number): Uint8Array {
  return typeof Buffer === "undefined" ? new Uint8Array(length) : Buffer.allocUnsafe(length);
}
