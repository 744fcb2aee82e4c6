"""The demo passes, and fails where an answer is wrong."""

import io

import numpy as np
import pytest
from rich.console import Console

import groupconv
from groupconv_server.demo.cases import max_pool, photo_cases
from groupconv_server.demo.check import judge
from groupconv_server.demo.run import run_demo, verdict_table


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_passes_with_two_ray_workers(tmp_path, capsys, monkeypatch):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "groupconv_server", "demo", "-o", str(tmp_path / "sheet.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "ray-0, ray-1" in done.stdout
    assert "23 of 23 passed" in done.stdout
    assert (tmp_path / "sheet.png").stat().st_size > 100_000


def test_the_demo_runs_against_a_server_that_is_there(server, tmp_path):
    import imageio.v3 as iio

    photo = np.random.default_rng(0).integers(0, 256, (240, 260, 3), dtype=np.uint8)
    iio.imwrite(tmp_path / "photo.png", photo)
    assert run_demo(
        output=tmp_path / "sheet.png",
        connect=lambda: groupconv.connect(server.address),
        executor="local",
        photo=tmp_path / "photo.png",
    )


def test_a_wrong_answer_fails_its_check(client):
    from dataclasses import replace

    photo = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    for case in photo_cases(np.tile(photo, (1, 1, 8, 8))):
        result = client.run(case.x, case.steps)
        assert judge(case, result, 0).passed
        spoiled = result.output.copy()
        spoiled.flat[spoiled.size // 2] += spoiled.dtype.type(1 + abs(float(spoiled.max())))
        assert not judge(case, replace(result, output=spoiled), 0).passed
        assert not judge(case, replace(result, output=result.output[..., :-1]), 0).passed


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_the_screen(client, width):
    photo = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    verdicts = [judge(case, client.run(case.x, case.steps), 0.1) for case in photo_cases(np.tile(photo, (1, 1, 4, 4)))]
    console = Console(file=io.StringIO(), width=width)
    console.print(verdict_table(verdicts, width))
    lines = console.file.getvalue().splitlines()
    assert "…" not in "".join(lines)
    assert sum(line.rstrip().endswith("ok") for line in lines) == len(verdicts)


def test_max_pool_is_the_published_one():
    x = np.arange(55 * 55, dtype=float).reshape(1, 1, 55, 55)
    pooled = max_pool(x)
    assert pooled.shape == (1, 1, 27, 27)
    assert pooled[0, 0, 0, 0] == 2 * 55 + 2
