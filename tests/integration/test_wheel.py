"""The wheel in an empty environment: the client alone, then the server."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CLIENT = """
import sys, groupconv
spec = groupconv.ConvSpec(padding="same", groups=2)
print(groupconv.resolve(spec, (1, 4, 9, 9), (4, 2, 3, 3)).output_shape)
print(sorted(m for m in ("ray", "numba", "scipy", "typer", "onnxruntime") if m in sys.modules))
if len(sys.argv) > 1:
    with groupconv.connect(sys.argv[1]) as client:
        print(client.conv1d([[[1.0, 2.0, 3.0]]], [[[1.0, 1.0]]]).tolist())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_gives_a_client_and_with_the_extra_a_server(tmp_path, server):
    def call(*command: object) -> str:
        done = subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("groupconv-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    install = (python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt")

    call(*install, wheel)
    brought = {line.split("==")[0].lower() for line in call(python, "-m", "pip", "freeze").split()}
    assert brought - {"groupconv", "@"} - {b for b in brought if "/" in b} == {
        "grpcio", "grpcio-status", "protobuf", "numpy", "ml_dtypes", "googleapis-common-protos", "typing_extensions",
    }  # fmt: skip
    out = call(python, "-c", CLIENT, server.address)
    assert out.splitlines() == ["(1, 4, 9, 9)", "[]", "[[[3.0, 5.0]]]"]
    command = subprocess.run([tmp_path / "env/bin/groupconv"], capture_output=True, text=True, check=False)
    assert command.returncode == 1
    assert command.stderr.strip().endswith("pip install 'groupconv[server]'")

    call(*install, f"{wheel}[server]")
    process = subprocess.Popen(
        [tmp_path / "env/bin/groupconv", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        address = process.stdout.readline().split()[-1]
        assert call(python, "-c", CLIENT, address).splitlines()[-1] == "[[[3.0, 5.0]]]"
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.stdout.close()
