"""Networks that are cut over a server's workers, as users ask for it."""

from dataclasses import replace

import numpy as np
import pytest
from networks import towers

from groupconv.errors import InvalidArgumentError
from groupconv_worker.graph.partition.sharding import write_cuts

X = np.random.default_rng(1).standard_normal((1, 4, 60, 60)).astype(np.float32)


def test_a_network_is_cut_into_rows(client):
    with client.load_network("cut/towers", towers()) as net:
        whole = net.run(X, cut="nothing")
        assert whole.report.cut == "nothing"
        assert whole.report.exchanges == ()
        result = net.run(X, cut="rows", timeout=300)  # another process compiles the kernels first
        np.testing.assert_allclose(result.outputs["y"], whole.outputs["y"], rtol=1e-5, atol=1e-6)
        report = result.report
        assert (report.cut, report.worker) == ("rows", "local-0,local-1")
        assert [part.algorithm for part in report.parts] == ["groupconv"] * 2
        assert {(e.source, e.target) for e in report.exchanges} == {("local-0", "local-1"), ("local-1", "local-0")}
        assert all(e.bytes > 0 for e in report.exchanges)
        assert report.coordinator_bytes <= 1.05 * (X.nbytes + result.outputs["y"].nbytes)
        assert "from local-0 to local-1" in str(report)
        assert net.plan(X.shape).last.cut == "rows"


def mixed(plan):
    """A plan over two workers whose maps are cut by rows, and what is too short for it by channels."""
    tensors = []
    for tensor in plan.tensors:
        whole, axis = [(0, extent) for extent in tensor.shape], 2 if tensor.shape[2:3] >= (2,) else 1
        half = tensor.shape[axis] // 2
        boxes = [
            tuple(part if a == axis else r for a, r in enumerate(whole))
            for part in ((0, half), (half, tensor.shape[axis]))
        ]
        tensors.append(replace(tensor, boxes=tuple(boxes)))
    return replace(plan, tensors=tuple(tensors))


def test_a_network_is_cut_as_a_plan_says(client):
    with client.load_network("cut/planned", towers()) as net:
        whole = net.run(X, cut="nothing").outputs["y"]
        plan = mixed(net.plan(X.shape, workers=2).cuts)
        result = net.run(X, cut=plan, timeout=300)
        np.testing.assert_allclose(result.outputs["y"], whole, rtol=1e-5, atol=1e-6)
        assert result.report.cut == "planned"
        assert "by rows" in result.report.parts[0].reason
        assert "by channels" in result.report.parts[0].reason
        planned = net.run(X, cut="planned", timeout=300)  # as the server's planner likes, perhaps on one worker
        np.testing.assert_allclose(planned.outputs["y"], whole, rtol=1e-5, atol=1e-6)


def test_a_network_is_cut_as_its_file_says(client):
    data = towers().SerializeToString()
    with client.load_network("cut/first", data) as net:
        plan = mixed(net.plan(X.shape, workers=2).cuts)
        whole = net.run(X, cut="nothing").outputs["y"]
    cut = write_cuts(data, {tensor.tensor: tensor.boxes for tensor in plan.tensors}, 2)
    with client.load_network("cut/file", cut) as net:
        result = net.run(X, cut="planned", timeout=300)
        np.testing.assert_allclose(result.outputs["y"], whole, rtol=1e-5, atol=1e-6)
        assert result.report.cut == "planned"
        assert "by rows" in result.report.parts[0].reason
        assert "by channels" in result.report.parts[0].reason


def test_plans_that_do_not_fit_are_refused(client):
    with client.load_network("cut/refused", towers()) as net:
        plan = mixed(net.plan(X.shape, workers=2).cuts)
        first, *others = plan.tensors
        unknown = replace(plan, tensors=(replace(first, tensor="nobody"), *others))
        with pytest.raises(InvalidArgumentError, match=r"^cuts\['nobody'\]: expected a tensor that the plan"):
            net.run(X, cut=unknown)
        half = replace(plan, tensors=(replace(first, boxes=(first.boxes[0], None)), *others))
        with pytest.raises(InvalidArgumentError, match="boxes that make all of"):
            net.run(X, cut=half)
        many = replace(plan, tensors=(replace(first, boxes=first.boxes + (None,) * 9), *others))
        with pytest.raises(InvalidArgumentError, match="boxes of at most 2 workers, got 11"):
            net.run(X, cut=many)
        with pytest.raises(InvalidArgumentError, match=r"^cut: expected a name, or a plan over workers"):
            net.run(X, cut=net.plan(X.shape))


def test_a_cut_that_is_none_is_refused(client):
    with client.load_network("cut/towers", towers()) as net:
        with pytest.raises(InvalidArgumentError, match=r"^cut: expected one of nothing, samples"):
            net.run(X, cut="diagonals")
        with pytest.raises(InvalidArgumentError, match=r"^cut: .*no tensor has samples for 2 workers"):
            net.run(X, cut="samples", timeout=300)
