"""The benchmark of the engine and the warm-up: what they print and write. No time is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groupconv.errors import InvalidArgumentError
from groupconv_server.cli.app import app
from groupconv_server.measure import engine as measure
from groupconv_server.measure import report
from groupconv_worker.cpu.kernels.target import select_here


def has(simd: str) -> bool:
    try:
        return bool(select_here(simd))
    except InvalidArgumentError:
        return False


@pytest.fixture(autouse=True)
def private(tmp_path, monkeypatch):
    """No measurement of peaks, which takes seconds, and nobody's cache."""
    monkeypatch.setattr(measure, "peaks", lambda threads: measure.Peaks(threads, 100.0, 10.0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*arguments):
    return CliRunner().invoke(app(), arguments)


def test_bench_engine_writes_a_table_json_and_a_roofline(tmp_path):
    rows, plot = tmp_path / "rows.json", tmp_path / "roofline.png"
    options = ("--rows", "fcn_up", "--threads", "1", "--runs", "3", "--json", str(rows), "--plot", str(plot))
    done = invoke("bench", "engine", *options)
    assert done.exit_code == 0, done.output
    assert "fcn_up_g21" in done.stdout
    assert "1 thread, geometric means over 1 rows" in done.stdout
    (row,) = json.loads(rows.read_text())
    assert (row["name"], row["threads"], row["algorithm"]) == ("fcn_up_g21", 1, "grouped")
    assert row["error"] < 1e-5
    assert all(row[key] > 0 for key in ("ours_resident_ms", "ours_oneshot_ms", "onnxruntime_ms", "numpy_ms"))
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not has("avx512"), reason="this machine has nothing beyond AVX2")
def test_bench_engine_holds_everybody_to_avx2(tmp_path):
    """In a process of its own, which it starts anew: libraries read their switches once."""
    bench, rows = Path(__file__).parents[3] / "bench" / "engine.py", tmp_path / "rows.json"
    options = ["--simd", "avx2", "--rows", "mobilenet_dw_14", "--threads", "1", "--runs", "3", "--json", str(rows)]
    done = subprocess.run(
        [sys.executable, str(bench), *options], capture_output=True, text=True, timeout=300, check=True
    )
    assert "kernels are held to avx2; onnxruntime has no switch" in done.stdout
    (row,) = json.loads(rows.read_text())
    assert row["algorithm"] != "onnxruntime"
    assert not row["onnxruntime_is_peer"]


def test_a_set_of_instructions_that_is_none_is_one_line():
    done = invoke("bench", "engine", "--simd", "sse9")
    assert done.exit_code == 2
    assert done.stderr.startswith("groupconv: GROUPCONV_SIMD: expected one of")


def test_the_peer_is_torch_alone_where_onnxruntime_is_not_held():
    common = {"threads": 1, "numpy_ms": 9.0, "algorithm": "a", "oneshot_algorithm": "b", "error": 1e-6}
    common |= {"gflops": 1.0, "gbytes_per_s": 1.0, "intensity": 1.0, "extra_mib": 65.0, "allowed_mib": 64.0}
    common |= {"name": "x", "ours_resident_ms": 1.0, "ours_oneshot_ms": 2.0, "torch_ms": 4.0, "onnxruntime_ms": 2.0}
    assert measure.Row(**common).peer == 2.0
    assert measure.Row(**common, onnxruntime_is_peer=False).peer == 4.0


def test_layers_may_come_from_a_file(tmp_path):
    file = tmp_path / "layers.csv"
    head = "name,kind,N,C,H,W,M,K,stride,padding,dilation,groups,from"
    file.write_text(f"{head}\nmine,conv,1,4,8,8,4,3,1,1,1,4,here\n")
    done = invoke("bench", "engine", "--layers", str(file), "--threads", "1", "--runs", "3")
    assert done.exit_code == 0, done.output
    assert "mine" in done.stdout


@pytest.mark.parametrize(
    ("option", "value"), [("--rows", "nothing-is-called-this"), ("--threads", "many"), ("--threads", "0")]
)
def test_a_bad_option_is_one_line(option, value):
    done = invoke("bench", "engine", option, value)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"groupconv: {option}: expected")


def test_a_file_of_another_kind_is_one_line(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n")
    done = invoke("bench", "engine", "--layers", str(file))
    assert done.exit_code == 2
    assert "--layers: expected a CSV" in done.stderr


def test_warmup_names_what_it_chose():
    done = invoke("warmup", "--rows", "fcn_up,mobilenet_dw_14")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["mobilenet_dw_14: grouped", "fcn_up_g21: grouped"]


def test_the_summary_is_of_ratios_to_the_better_peer():
    common = {"threads": 1, "numpy_ms": 9.0, "algorithm": "a", "oneshot_algorithm": "b", "error": 1e-6}
    common |= {"gflops": 1.0, "gbytes_per_s": 1.0, "intensity": 1.0, "extra_mib": 65.0, "allowed_mib": 64.0}
    rows = [
        measure.Row(name="x", ours_resident_ms=1.0, ours_oneshot_ms=8.0, torch_ms=4.0, onnxruntime_ms=5.0, **common),
        measure.Row(
            name="photo_y", ours_resident_ms=2.0, ours_oneshot_ms=2.0, torch_ms=None, onnxruntime_ms=2.0, **common
        ),
    ]
    text = report.summary(rows)
    assert "resident 0.50, one-shot 1.41" in text  # √(1/4 · 1), √(2 · 1)
    assert "image rows 1.00; worst row 1.00 (photo_y)" in text
    assert "over its allowance: x, photo_y" in text
