"""Ray's private modules are used in one file, and have what it uses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import groupconv_server
import groupconv_worker

pytest.importorskip("ray")

FOLDERS = [Path(package.__path__[0]) for package in (groupconv_server, groupconv_worker)]


def test_one_file_uses_private_modules_of_ray():
    files = [path for folder in FOLDERS for path in folder.rglob("*.py")]
    assert len(files) > 200
    private = [path.name for path in files if re.search(r"\bray\._|from ray import _", path.read_text())]
    assert private == ["ray_internals.py"]


def test_ray_has_what_is_used():
    """In a process of its own: one whose cluster runs must not read its settings again, or it loses its token."""
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


USED = """
from ray._private.node import Node
from ray.actor import ActorHandle
from groupconv_server.executors.ray import ray_internals

constants = ray_internals.ray_constants
assert isinstance(constants.PROCESS_TYPE_GCS_SERVER, str)
assert {"kill_gcs_server", "start_gcs_server"} <= set(dir(Node))
assert callable(ray_internals.ray._private.state.actors)
assert hasattr(ActorHandle, "_actor_id")
before = constants.ENABLE_RAY_CLUSTER
with ray_internals.on_loopback():
    assert constants.ENABLE_RAY_CLUSTER is False
assert constants.ENABLE_RAY_CLUSTER is before
ray_internals.read_settings_again()
"""
