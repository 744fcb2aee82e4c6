import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Tensor } from "../src/index.js";
import { ConvolveRequestSchema } from "../src/protocol/groupconv/v1/convolution_pb.js";
import { RunNetworkRequestSchema } from "../src/protocol/groupconv/v1/network_pb.js";
import { TensorSchema } from "../src/protocol/groupconv/v1/tensor_pb.js";
import { serialize } from "../src/wire/frame.js";
import { bytesOf, tensorFromWire, tensorToWire } from "../src/wire/tensors.js";

const sizes = [1, 3, 4, 5, 29, 31, 32, 100, 127, 128, 4000, 16384, 70000];

test.each(sizes)("a request of %d elements is ordinary protobuf, with the elements at a multiple of 16", (n) => {
  const x = new Tensor(Float32Array.from({ length: n }, Math.sqrt), [1, 1, n]);
  const request = create(ConvolveRequestSchema, { input: tensorToWire(x), layer: "a/b", allowReordering: true });
  const bytes = serialize(ConvolveRequestSchema, request);
  const parsed = fromBinary(ConvolveRequestSchema, bytes);
  expect(parsed.input!.data.byteOffset - bytes.byteOffset).toSatisfy((at: number) => at % 16 === 0);
  const unpadded = { ...parsed, input: { ...parsed.input!, padding: new Uint8Array() } };
  expect(Buffer.from(toBinary(ConvolveRequestSchema, unpadded)).equals(toBinary(ConvolveRequestSchema, request))).toBe(
    true,
  );
});

test("a network's request, with one input and with two", () => {
  const x = tensorToWire(new Tensor(new Float32Array(40).fill(2), [40]));
  for (const inputs of [[x], [x, x]]) {
    const request = create(RunNetworkRequestSchema, { network: "n", names: inputs.map(() => "x"), inputs });
    const parsed = fromBinary(RunNetworkRequestSchema, serialize(RunNetworkRequestSchema, request));
    expect(parsed.inputs.map((t) => tensorFromWire(t, "x").data[39])).toEqual(inputs.map(() => 2));
    expect(parsed.names).toEqual(request.names);
  }
});

test.each([0, 1, 3, 4, 5, 8])(
  "elements %d bytes into their memory are read right, from small and large messages",
  (at) => {
    for (const n of [3, 20000, 40000]) {
      const x = new Tensor(Float64Array.from({ length: n }, Math.sqrt), [n]);
      const bytes = toBinary(TensorSchema, tensorToWire(x));
      const memory = new Uint8Array(at + bytes.length);
      memory.set(bytes, at);
      const y = tensorFromWire(fromBinary(TensorSchema, memory.subarray(at)), "x");
      expect(y.dtype).toBe("float64");
      expect(Buffer.from(bytesOf(y)).equals(bytesOf(x))).toBe(true);
    }
  },
);

test("aligned elements of an answer are a view of it", () => {
  const bytes = serialize(
    ConvolveRequestSchema,
    create(ConvolveRequestSchema, { input: tensorToWire(Tensor.zeros([9])) }),
  );
  const aligned = new Uint8Array(bytes);
  const y = tensorFromWire(fromBinary(ConvolveRequestSchema, aligned).input!, "x");
  expect(y.data.buffer).toBe(aligned.buffer);
});

test("an answer of other bytes than its shape says is refused", () => {
  const message = { ...tensorToWire(Tensor.zeros([3])), shape: [4n] };
  expect(() => tensorFromWire(message, "output")).toThrow("the server sent 12 bytes for output, a tensor (4,) float32");
});
