"""`groupconv warmup` on a machine with a GPU: kernels are compiled, choices measured and kept on disk."""

import json

from typer.testing import CliRunner

from emulation import needs_compiler
from groupconv_server.cli.app import app
from groupconv_worker.cache_folder import cache_folder

pytestmark = needs_compiler


def test_a_gpu_is_warmed_up(cupy, monkeypatch, tmp_path):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # those of a calibration are too slow to emulate
    monkeypatch.setattr("groupconv_server.planner.calibration_sizes.problems", list)
    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", lambda *_: 1.0)
    done = CliRunner().invoke(app(), ["warmup", "--engine", "cuda", "--rows", "mobilenet_dw_14"])
    assert done.exit_code == 0, (done.output, done.exception)
    name, _, found = done.output.strip().rpartition(": ")
    assert name.startswith("mobilenet_dw_14 on cuda: emulation")
    resident, oneshot = found.split(", ")
    assert oneshot.startswith("one-shot ")
    file = cache_folder("cuda.json")
    assert file is not None
    (choices,) = json.loads(file.read_text()).values()
    assert [choice.partition(":")[0] for choice in choices.values()] == [resident]


def test_an_unknown_engine_is_refused():
    done = CliRunner().invoke(app(), ["warmup", "--engine", "gpu"])
    assert done.exit_code != 0
    assert "expected auto, cpu or cuda, got 'gpu'" in str(done.exception) + done.output
