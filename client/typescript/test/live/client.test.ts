/** The functions of a client against a live server, over each transport. */

import { afterAll, describe, expect, inject, test } from "vitest";
import { ConvSpec, NotFoundError, Tensor, UnimplementedError, type Client } from "../../src/index.js";
import { connect } from "../../src/node.js";
import { rejected } from "../errors.js";
import { TRANSPORTS } from "../transports.js";

const x = Tensor.from([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]]); // prettier-ignore

describe.each(TRANSPORTS)("over $name", ({ open }) => {
  const client = open();
  afterAll(() => client.close());

  test("each function computes its variant", async () => {
    const full = Tensor.from([[[[1, 1], [1, 1]], [[2, 0], [0, 2]]]]); // prettier-ignore
    const y = await client.conv2d(x, full, { bias: [10] });
    expect(y.toNested()).toEqual([[[[26, 26], [34, 42]]]]); // prettier-ignore
    expect((await client.convolve(x, full, { bias: [10], spec: new ConvSpec() })).toNested()).toEqual(y.toNested());
    const points = await client.pointwiseConv2d(x, [[1, 10]]);
    expect(points.toNested()).toEqual([[[[11, 2, 3], [4, 15, 6], [7, 8, 19]]]]); // prettier-ignore
    const depthwise = await client.depthwiseConv2d(x, [[[[1, -1]]], [[[0, 1]]]]);
    expect(depthwise.toNested()).toEqual([[[[-1, -1], [-1, -1], [-1, -1]], [[0, 0], [1, 0], [0, 1]]]]); // prettier-ignore
    const separable = await client.depthwiseSeparableConv2d(x, [[[[1, -1]]], [[[0, 1]]]], [[1, 1]], { bias: [1] });
    expect(separable.toNested()).toEqual([[[[0, 0], [1, 0], [0, 1]]]]); // prettier-ignore
    const spatial = await client.spatiallySeparableConv2d(x, [1, 1, 1], [1, 0, -1], { padding: [1, 0] });
    const kernel = Tensor.from(Array(2).fill([[[1, 0, -1], [1, 0, -1], [1, 0, -1]]])); // prettier-ignore
    expect(spatial.toNested()).toEqual((await client.depthwiseConv2d(x, kernel, { padding: [1, 0] })).toNested());
    const doubled = await client.convTranspose2d(x, [[[[1]]], [[[1]]]], { stride: 2, outputPadding: 1 });
    expect(doubled.shape).toEqual([1, 1, 6, 6]);
    expect((await client.conv1d([[[1, 2, 3]]], [[[1, 1]]])).toNested()).toEqual([[[3, 5]]]);
    expect((await client.convTranspose1d([[[1, 2]]], [[[1, 1]]])).toNested()).toEqual([[[1, 3, 2]]]);
    expect((await client.conv3d([[[[[1, 2]]]]], [[[[[3]]]]])).toNested()).toEqual([[[[[3, 6]]]]]);
    expect((await client.convTranspose3d([[[[[1, 2]]]]], [[[[[3]]]]])).toNested()).toEqual([[[[[3, 6]]]]]);
  });

  test("an input without a batch axis gives an output without one", async () => {
    expect((await client.conv1d([[1, 2, 3]], [[[1, 1]]])).toNested()).toEqual([[3, 5]]);
  });

  test("halves and integers", async () => {
    const half = await client.conv1d(Tensor.from([[[1, 2, 3]]], "float16"), [[[0.5, 0.25]]]);
    expect([half.dtype, half.toNested()]).toEqual(["float16", [[[1, 1.75]]]]);
    const whole = await client.conv1d(Tensor.from([[[1, 2, 3]]], "uint8"), Tensor.from([[[1, -5]]], "int8"));
    expect([whole.dtype, whole.toNested()]).toEqual(["int32", [[[-9, -13]]]]);
    const wide = await client.conv1d(new Tensor(new Uint16Array([1, 65535]), [1, 1, 2]), [[[1]]]);
    expect([wide.dtype, wide.toNested()]).toEqual(["float32", [[[1, 65535]]]]);
  });

  test("a run has a report, which names workers of the status", async () => {
    const { output, report } = await client.run(x, [{ kernel: Tensor.zeros([2, 2, 3, 3]), spec: { padding: 1 } }]);
    expect(output.shape).toEqual([1, 2, 3, 3]);
    const { workers, version } = await client.status();
    expect(workers.map((w) => w.id)).toContain(report.steps[0]![0]!.worker);
    expect(String(report)).toContain("phases: parse");
    expect(version).not.toBe("");
  });

  test("a plan of shapes and of steps", async () => {
    const plan = await client.plan([1, 96, 27, 27], [256, 48, 5, 5], { spec: { padding: 2, groups: 2 }, cut: "group" });
    expect(plan.steps[0]!.cut).toBe("group");
    expect(plan.workers).toHaveLength(2);
    expect(String(plan)).toContain(
      "step 0  grouped convolution, g=2: (1, 96, 27, 27) * (256, 48, 5, 5) -> (1, 256, 27, 27)",
    );
    const chain = await client.plan(x.shape, [
      { kernel: Tensor.zeros([4, 2, 2, 2]) },
      { kernel: Tensor.zeros([1, 4, 1, 1]) },
    ]);
    expect(chain.steps.map((s) => s.outputShape)).toEqual([[1, 4, 2, 2], [1, 1, 2, 2]]); // prettier-ignore
    expect(chain.receptiveField).toEqual([2, 2]);
  });
});

describe("layers", () => {
  const client: Client = connect(inject("address"));
  afterAll(() => client.close());

  test("a layer is loaded, called, described and removed", async () => {
    const layer = await client.loadLayer("ts/one", Tensor.from([[[1, 2]]]), { bias: [1], inputs: [[1, 1, 4]] });
    expect((await layer.forward([[[1, 1, 1]]])).toNested()).toEqual([[[4, 4]]]);
    expect((await layer.forward(Tensor.from([[1, 1, 1]], "float64"))).toNested()).toEqual([[4, 4]]);
    expect((await layer.run([[[1, 1, 1]]])).report.steps).toHaveLength(1);
    expect(layer.info).toMatchObject({ name: "ts/one", dtype: "float32", weights: 2, receptiveField: [2] });
    expect(layer.info.multiplyAdds([1, 1, 4])).toBe(6);
    expect((await layer.statistics()).requests).toBe(3);
    expect((await client.listLayers()).map(String)).toContain(
      `ts/one version ${layer.info.version}: kernel (1, 1, 2) float32, 12 B`,
    );
    expect(String(await rejected(layer.forward([[[1], [1]]])))).toContain(
      "input.shape[1]: expected 1 channels, as the layer has, got 2",
    );
    await layer.unload();
    expect(await rejected(client.getLayer("ts/one"))).toBeInstanceOf(NotFoundError);
  });

  test("several steps, in another dtype", async () => {
    const layer = await client.loadLayerSteps("ts/two", [{ kernel: [[[1, 1]]] }, { kernel: [[[3]]] }], {
      dtype: "float64",
    });
    const y = await layer.forward([[[1, 2, 3]]]);
    expect([y.dtype, y.toNested()]).toEqual(["float64", [[[9, 15]]]]);
    await layer.unload();
  });

  test("weights of several messages", async () => {
    const layer = await client.loadLayer("ts/large", Tensor.from(Tensor.zeros([600, 600, 1]), "float32"));
    expect(layer.info.bytes).toBe(600 * 600 * 4);
    await layer.unload();
  });

  test("a browser cannot load one", async () => {
    const web = TRANSPORTS[1]!.open();
    expect(await rejected(web.loadLayer("ts/web", [[[1]]]))).toBeInstanceOf(UnimplementedError);
  });
});
