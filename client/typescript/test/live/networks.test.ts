/** Networks against a live server. */

import { execFileSync } from "node:child_process";
import { afterAll, expect, inject, test } from "vitest";
import {
  connect,
  InvalidArgumentError,
  NotFoundError,
  Tensor,
  UnimplementedError,
  type Network,
} from "../../src/node.js";
import { checkShapes, converted, TensorInfo } from "../../src/networks/info.js";
import { caught, rejected } from "../errors.js";
import { BIN } from "../server.js";
import { TRANSPORTS } from "../transports.js";

/** y = conv(x, kernel of ones) with a channel of 3 × 3, z = y + n. */
const MODEL = `
import sys, numpy as np
from onnx import TensorProto as T, helper as h, numpy_helper
ones = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
nodes = [h.make_node("Conv", ["x", "w"], ["y"], name="conv"), h.make_node("Add", ["y", "n"], ["z"], name="add")]
inputs = [h.make_tensor_value_info("x", T.FLOAT, ["N", 1, "H", "W"]), h.make_tensor_value_info("n", T.FLOAT, [1])]
outputs = [h.make_tensor_value_info(name, T.FLOAT, ["N", 1, None, None]) for name in "yz"]
model = h.make_model(h.make_graph(nodes, "g", inputs, outputs, [ones]), ir_version=10, opset_imports=[h.make_opsetid("", 21)])
sys.stdout.buffer.write(model.SerializeToString())
`;

/** z = relu(conv(x, kernel of ones)). */
const CHAIN = MODEL.replace('"Add", ["y", "n"]', '"Relu", ["y"]').replace(
  ', h.make_tensor_value_info("n", T.FLOAT, [1])',
  "",
);

const client = connect(inject("address"));
afterAll(() => client.close());

test("a network is loaded, called over each transport, described and removed", async () => {
  const net: Network = await client.loadNetwork("ts/net", execFileSync(`${BIN}/python`, ["-c", MODEL]));
  expect(String(net.info)).toContain(
    `ts/net, version ${net.info.version}: 2 nodes, 9 weights\ninput  x: float32 (N, 1, H, W)`,
  );
  const x = Tensor.from([[[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]]]); // prettier-ignore
  for (const { open } of TRANSPORTS) {
    const other = open();
    const same = await other.getNetwork("ts/net");
    expect((await same.forward(x, [5])).toNested()).toEqual([[[[54, 63]]]]);
    const { outputs, report } = await same.run({ x, n: Tensor.from([5], "uint8") });
    expect(Object.entries(outputs).map(([name, y]) => [name, y.toNested()])).toEqual([
      ["y", [[[[54, 63]]]]],
      ["z", [[[[59, 68]]]]],
    ]);
    expect(report.parts.reduce((sum, part) => sum + part.nodes, 0)).toBeGreaterThan(0);
    expect(Object.keys((await same.run({ x, n: [5] }, { outputs: ["z"] })).outputs)).toEqual(["z"]);
    other.close();
  }
  const { state, settled, states } = await net.statistics();
  expect(settled, String(state)).toBe(true); // the tests' servers compile nothing
  expect(String(await net.wait())).toBe(String(state));
  expect(
    states.every((one) => one.worker && one.shapes["n"]!.join() === "1"),
    String(states),
  ).toBe(true);
  const plan = await net.plan({ x: [2, 1, 5, 6], n: [1] });
  expect(plan.nodes.map((node) => [node.op, node.shape])).toEqual([["Conv", [2, 1, 3, 4]], ["Add", [2, 1, 3, 4]]]); // prettier-ignore
  expect(plan.multiplyAdds).toBe(2 * 9 * 12);
  expect(String(plan)).toContain("last call: ");
  expect((await net.statistics()).requests).toBe(9);
  expect(String(plan)).not.toContain("of all");
  await net.run({ x, n: [5] }, { times: true });
  const timed = await net.plan({ x: x.shape, n: [1] });
  expect(timed.nodes.some((node) => node.seconds! > 0)).toBe(true);
  for (const { seconds, fusedInto } of timed.nodes) {
    if (seconds === null) expect(timed.nodes.map((node) => node.name)).toContain(fusedInto);
  }
  expect(String(timed)).toMatch(/time +of all\n.*\d ms +\d+\.\d%/);
  expect((await client.listNetworks()).map((info) => info.name)).toContain("ts/net");
  expect(await rejected(net.forward(x))).toMatchObject({
    message: "inputs: expected inputs called 'x', 'n', got 'none called n'",
  });
  expect(await rejected(net.forward(x, [5], [6]))).toMatchObject({
    message: "inputs: expected at most 2 arrays, got '3 of them'",
  });
  expect(await rejected(net.run({ x, n: [5] }, { outputs: ["a"] }))).toMatchObject({ field: "outputs" });
  await net.unload();
  expect(await rejected(client.getNetwork("ts/net"))).toBeInstanceOf(NotFoundError);
});

test("a network is planned for workers of several nodes, and cut", async () => {
  const net = await client.loadNetwork("ts/cut", execFileSync(`${BIN}/python`, ["-c", CHAIN]));
  const shape = [1, 1, 2048, 2048];
  const { cuts } = await net.plan(shape, { workers: 4, nodes: 2 });
  expect([cuts!.workers, cuts!.nodes, cuts!.used]).toEqual([4, [2, 2], 4]);
  const [y] = cuts!.tensors;
  expect([y!.op, y!.shape, y!.boxes.length]).toEqual(["Conv", [1, 1, 2046, 2046], 4]);
  expect(y!.boxes.map((box) => box![2]![1] - box![2]![0]).reduce((a, b) => a + b)).toBe(2046);
  expect(String(cuts)).toContain("4 of 4 workers, ");
  expect(String(cuts)).toContain(" between nodes\npredicted: ");
  expect((await net.plan(shape)).cuts).toBeNull();
  const x = new Tensor(
    Float32Array.from({ length: 60 }, (_, i) => i),
    [1, 1, 10, 6],
  );
  const whole = await net.run(x, { cut: "nothing" });
  const rows = await net.run(x, { cut: "rows" });
  const plan = await net.plan(x.shape, { workers: 2 });
  for (const { outputs, report } of [rows, await net.run(x, { cut: plan })]) {
    expect(outputs["z"]!.toNested()).toEqual(whole.outputs["z"]!.toNested());
    expect(report.exchanges.every(({ bytes, source, target }) => bytes > 0 && source !== target)).toBe(true);
  }
  expect([whole.report.cut, rows.report.cut, rows.report.worker]).toEqual(["nothing", "rows", "local-0,local-1"]);
  for (const [options, field] of [
    [{ workers: -1 }, "workers"],
    [{ inFlight: 0 }, "inFlight"],
    [{ nodes: 1.5 }, "nodes"],
    [{ workers: 1, nodes: 2 }, "nodes"],
  ] as const) {
    // prettier-ignore
    expect(await rejected(net.plan(shape, options))).toMatchObject({ field });
  }
  expect(await rejected(net.run(x, { cut: await net.plan(shape) }))).toMatchObject({ field: "cut" });
  expect(await rejected(net.run(x, { cut: "diagonally" }))).toMatchObject({ field: "cut" });
  await net.unload();
});

test("what is no model is refused", async () => {
  expect(await rejected(client.loadNetwork("ts/no", new Uint8Array([1, 2, 3])))).toBeInstanceOf(InvalidArgumentError);
  expect(await rejected(client.loadNetwork("ts/no", "det.onnx" as never))).toMatchObject({ field: "model" });
  expect(await rejected(TRANSPORTS[2]!.open().loadNetwork("ts/no", new Uint8Array()))).toBeInstanceOf(
    UnimplementedError,
  );
});

test("shapes and dtypes are checked in Python's words", () => {
  const [x, y] = [new TensorInfo("x", "float32", ["N", 3, null]), new TensorInfo("y", "int64", ["N"])];
  const messages = [{ x: [1, 3] }, { x: [1, 4, 2] }, { x: [1, 3, 2], y: [2] }, { x: [1, 3, -1] }, { z: [] }].map(
    (shapes) => String(caught(() => checkShapes([x, y], shapes))),
  );
  expect(messages).toEqual([
    "InvalidArgumentError: inputs['x'].shape: expected 3 axes, as in x: float32 (N, 3, ?), got [1, 3]",
    "InvalidArgumentError: inputs['x'].shape[1]: expected 3, got 4",
    "InvalidArgumentError: inputs['y'].shape[0]: expected 1, which axis 'N' has in inputs['x'].shape[0], got 2",
    "InvalidArgumentError: inputs['x'].shape[2]: expected an extent of at least 0, got -1",
    "InvalidArgumentError: inputs: expected inputs called 'x', 'y', got 'z'",
  ]);
  expect(converted(y, Tensor.from([3], "int32")).data).toEqual(new BigInt64Array([3n]));
  expect(converted(x, Tensor.from([3], "int16")).dtype).toBe("float32");
  for (const dtype of ["int32", "uint32", "int64"] as const) {
    expect(caught(() => converted(x, Tensor.from([3], dtype)))).toMatchObject({ field: "inputs['x'].dtype" });
  }
  expect(caught(() => converted(y, Tensor.from([3])))).toMatchObject({ expected: "int64", got: "float32" });
});
