"""Networks that are cut over a server's workers, as users ask for it."""

import numpy as np
import pytest
from networks import towers

from groupconv.errors import InvalidArgumentError

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


def test_a_cut_that_is_none_is_refused(client):
    with client.load_network("cut/towers", towers()) as net:
        with pytest.raises(InvalidArgumentError, match=r"^cut: expected one of nothing, samples"):
            net.run(X, cut="diagonals")
        with pytest.raises(InvalidArgumentError, match=r"^cut: .*no tensor has samples for 2 workers"):
            net.run(X, cut="samples", timeout=300)
