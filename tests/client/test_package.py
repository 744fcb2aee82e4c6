"""What `import groupconv` brings, and the names users may rely on."""

import subprocess
import sys

import groupconv
from groupconv import errors


def test_importing_the_client_brings_no_engine_and_no_cluster():
    heavy = "('ray', 'cupy', 'numba', 'onnxruntime', 'scipy')"
    code = f"import sys, groupconv; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_server_brings_ray_only_when_asked():
    code = "import sys, groupconv_server.server; print([m for m in ('ray', 'cupy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these():
    assert sorted(groupconv.__all__) == groupconv.__all__
    assert set(groupconv.__all__) == {
        "Activation", "AsyncLayer", "Client", "ConvSpec", "Geometry", "GroupconvError", "Layer", "LayerInfo", "Plan",
        "Report", "Result", "Step", "aio", "connect", "receptive_field", "resolve",
    }  # fmt: skip


def test_every_grpc_status_has_its_exception():
    import grpc

    assert set(errors.BY_STATUS) == {code.name for code in grpc.StatusCode} - {"OK"}
