"""A server that may read every user's shared memory maps an object only for the user it belongs to."""

import os
import subprocess
import sys
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory as Object
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root reads other users' objects")

ALICE, MALLORY = 12345, 12346
REGISTER = """
import os, sys, grpc
from groupconv_server.inference.v2 import service_pb2_grpc
from groupconv_server.inference.v2.shared_memory_pb2 import SystemSharedMemoryRegisterRequest as Request
os.setgroups([])
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[4]))  # not before: another user may not be able to read this interpreter's files
stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(sys.argv[1]))
try:
    stub.SystemSharedMemoryRegister(Request(name=sys.argv[3], key=sys.argv[2], byte_size=4096), timeout=60)
    print("registered")
except grpc.RpcError as error:
    print(error.code().name)
"""


@contextmanager
def object_of(user):
    """An object that its user alone may open."""
    made = Object(create=True, size=4096)
    try:
        os.chown(Path("/dev/shm") / made.name.lstrip("/"), user, user)
        yield made.name
    finally:
        made.close()
        made.unlink()


def registered(server, user, key, name):
    """What a client that runs as this user is answered."""
    command = [sys.executable, "-c", REGISTER, server.address, key, name, str(user)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_who_owns_an_object_may_have_it_mapped_and_nobody_else(sharing):
    with object_of(ALICE) as alices, object_of(0) as roots:
        assert registered(sharing, ALICE, alices, "alice") == "registered"
        assert registered(sharing, MALLORY, alices, "mallory") == "NOT_FOUND"
        assert registered(sharing, MALLORY, roots, "mallory") == "NOT_FOUND"
        assert registered(sharing, 0, roots, "root") == "registered"
        assert registered(sharing, 0, alices, "root2") == "NOT_FOUND"
