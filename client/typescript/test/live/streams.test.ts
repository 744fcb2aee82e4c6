/** Streams against a live server: their outputs, their order, back-pressure, and what ends them. */

import { createConnection, createServer, type AddressInfo } from "node:net";
import { afterAll, describe, expect, inject, test } from "vitest";
import { CancelledError, connect, InvalidArgumentError, Tensor, UnimplementedError } from "../../src/node.js";
import { bytesOf } from "../../src/wire/tensors.js";
import { caught, rejected } from "../errors.js";
import { TRANSPORTS } from "../transports.js";

const client = connect(inject("address"));
afterAll(() => client.close());

/** Small integers, so that sums are exact however they are taken. */
function numbers(shape: number[]): Tensor {
  const x = Tensor.zeros(shape);
  for (let i = 0; i < x.data.length; i++) x.data[i] = ((i * 7919) % 17) - 8;
  return x;
}

const image = numbers([1, 3, 97, 50]);
const kernel = numbers([4, 3, 3, 3]);

test.each([
  ["one sample", image, {}],
  ["several samples", numbers([3, 3, 20, 11]), { bandRows: 7 }],
  ["an input without a batch axis", image.reshape([3, 97, 50]), { bandRows: 10 }],
  [
    "with parameters",
    image,
    { padding: [2, [0, 1]] as [number, [number, number]], stride: 2, dilation: 2, bandRows: 5 },
  ],
  ["transposed", numbers([1, 4, 30, 9]), { transposed: true, stride: 2, outputPadding: 1, bandRows: 13 }],
])("%s: the stream gives what one call gives", async (_, x, options) => {
  const { bandRows, ...spec } = { bandRows: 0, ...options };
  const whole = await client.convolve(x, kernel, { spec });
  const y = await client.streamConv2d(x, kernel, { ...spec, bandRows }).tensor();
  expect([y.shape, y.dtype]).toEqual([whole.shape, whole.dtype]);
  expect(Buffer.from(bytesOf(y)).equals(bytesOf(whole))).toBe(true);
});

test("bands come in order and cover every row; an iterator's bands may have any heights", async () => {
  async function* bands() {
    for (let start = 0, rows = 1; start < 97; start += rows, rows = Math.min(rows + 3, 97 - start)) {
      const band = Tensor.zeros([3, rows, 50]);
      for (let c = 0; c < 3; c++) {
        const from = (c * 97 + start) * 50;
        (band.data as Float32Array).set((image.data as Float32Array).subarray(from, from + rows * 50), c * rows * 50);
      }
      yield band;
    }
  }
  const steps = [{ kernel, spec: { padding: 1 } }, { kernel: numbers([2, 4, 1, 1]) }];
  const expected = (await client.run(image, steps)).output;
  let next = 0;
  const rows: number[] = [];
  for await (const band of client.streamConvolve(bands(), steps, { shape: [3, 97, 50], bandRows: 8 })) {
    expect(band.start).toBe(next);
    expect(band.rows.shape).toEqual([band.stop - band.start, 2, 50]);
    rows.push(...Array.from(band.rows.data as Float32Array));
    next = band.stop;
  }
  expect(next).toBe(97);
  const transposed = Array.from({ length: 97 * 2 * 50 }, (_, i) => {
    const [row, channel, column] = [Math.floor(i / 100), Math.floor(i / 50) % 2, i % 50];
    return expected.data[(channel * 97 + row) * 50 + column];
  });
  expect(rows).toEqual(transposed);
});

test("rows are taken from the source only as fast as bands are read; a loop that ends ends the source", async () => {
  let taken = 0;
  let ended = false;
  function* bands() {
    try {
      for (; taken < 200; taken++) yield Tensor.zeros([1, 1, 2 ** 18]); // 1 MiB each
    } finally {
      ended = true;
    }
  }
  const stream = client.streamConv2d(bands(), Tensor.zeros([1, 1, 1, 1]), { shape: [1, 200, 2 ** 18], bandRows: 1 });
  for await (const { stop } of stream) {
    if (stop < 3) continue;
    for (let i = 0; i < 100; i++) await client.status(); // time in which more rows could travel
    break;
  }
  expect(taken).toBeLessThan(150); // the rest does not fit into the buffers on the way, which take about 40
  expect(ended).toBe(true);
});

describe("what ends a stream", () => {
  test("arguments that do not fit, before anything is sent", () => {
    expect(caught(() => client.streamConv2d(image, numbers([4, 2, 3, 3])))).toBeInstanceOf(InvalidArgumentError);
    expect(caught(() => client.streamConv2d([].values(), kernel))).toMatchObject({ field: "shape" });
    expect(caught(() => client.streamConv2d(image, kernel, { bands: 3 } as object))).toMatchObject({ field: "bands" });
  });

  test("an iterator that ends early, or fails", async () => {
    const stream = client.streamConv2d([image].values(), kernel, { shape: [1, 3, 98, 50] });
    expect(String(await rejected(stream.tensor()))).toContain("input: expected bands of 98 rows in all, got 97 rows");
    const failing = async function* (): AsyncGenerator<Tensor> {
      throw new RangeError("the disk is gone");
    };
    expect(await rejected(client.streamConv2d(failing(), kernel, { shape: [3, 97, 50] }).tensor())).toBeInstanceOf(
      RangeError,
    );
  });

  test("a signal", async () => {
    const controller = new AbortController();
    const stream = client.streamConv2d(image, kernel, { bandRows: 1, signal: controller.signal });
    const read = async () => {
      for await (const band of stream) if (band.stop >= 2) controller.abort();
    };
    expect(await rejected(read())).toBeInstanceOf(CancelledError);
  });

  test("a browser has none", async () => {
    const web = TRANSPORTS[1]!.open();
    expect(await rejected(web.streamConv2d(image, kernel).tensor())).toBeInstanceOf(UnimplementedError);
  });
});

test("a stream whose connection is lost continues after the last complete band", async () => {
  const [host, port] = inject("address").split(":");
  let connections = 0;
  const cut: (() => void)[] = [];
  const relay = createServer((socket) => {
    connections++;
    const server = createConnection(Number(port), host);
    cut.push(() => [socket, server].forEach((end) => end.destroy()));
    for (const end of [socket, server]) end.on("error", () => undefined);
    socket.pipe(server).pipe(socket);
  });
  await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
  const through = connect(`127.0.0.1:${(relay.address() as AddressInfo).port}`);
  const x = numbers([1, 1, 300, 2 ** 14]); // 20 MB
  const starts: number[] = [];
  let sum = 0;
  for await (const band of through.streamConv2d(x, [[[[1]]]], { bandRows: 10 })) {
    starts.push(band.start);
    for (const value of band.rows.data as Float32Array) sum += value;
    if (starts.length === 3) cut.forEach((end) => end());
  }
  through.close();
  relay.close();
  expect(starts).toEqual(Array.from({ length: 30 }, (_, i) => i * 10));
  expect(sum).toBe((x.data as Float32Array).reduce((a, b) => a + b));
  expect(connections).toBeGreaterThan(1);
});
