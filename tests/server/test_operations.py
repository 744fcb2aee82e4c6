"""What operators get fits together: alerts have a section in the runbook, queries name metrics that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 2**20
OPERATIONS = (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("name", ["docker-compose.yml", "deploy/compose.gpu.yml"])
def test_compose_files_publish_on_loopback_alone_and_bound_memory(name):
    services = yaml.safe_load((ROOT / name).read_text())["services"]
    for service, said in services.items():
        assert "mem_limit" in said, service
        for port in said.get("ports", []):
            assert port.startswith("127.0.0.1:"), service


@pytest.mark.parametrize("name", ["groupconv.yml", "kuberay.yml"])
def test_the_kubernetes_manifests_hold_together(name):
    objects = list(yaml.safe_load_all((ROOT / "deploy/k8s" / name).read_text()))
    pods = [o["spec"]["template"] for o in objects if o["kind"] == "Deployment"]
    for o in objects:
        if o["kind"] == "RayCluster":
            groups = [o["spec"]["headGroupSpec"], *o["spec"]["workerGroupSpecs"]]
            pods += [group["template"] for group in groups]
            joined = groups[1]["template"]["spec"]["containers"][0]["command"][-1]
            assert joined == f"{o['metadata']['name']}-head-svc:6379"  # the service that the operator makes
    ports = {c["name"]: {p["containerPort"] for p in c.get("ports", [])} for t in pods for c in t["spec"]["containers"]}
    assert ports["coordinator"] >= {50051, 9464}
    for o in objects:
        if o["kind"] == "Service":
            assert any(o["spec"]["selector"].items() <= t["metadata"]["labels"].items() for t in pods)
        if o["kind"] == "Deployment":
            assert o["spec"]["selector"]["matchLabels"].items() <= o["spec"]["template"]["metadata"]["labels"].items()
    for template in pods:
        (container,) = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
        assert template["spec"]["terminationGracePeriodSeconds"] > 30  # --grace
        assert {"readinessProbe", "resources", "securityContext"} <= container.keys()
        assert "RAY_AUTH_MODE" in {variable["name"] for variable in container["env"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"/tmp", "/home/groupconv", "/dev/shm"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_containers_of_the_compose_file_cannot_write_their_root():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {name for name, service in services.items() if not service.get("read_only")} == {"grafana"}
    for name in ("coordinator", "worker", "load"):
        folders = [mount.partition(":")[0] for mount in services[name]["tmpfs"]]
        assert folders == ["/tmp", "/home/groupconv"]


def test_the_table_of_caches_says_what_the_code_does():
    from groupconv.wire import codec
    from groupconv_server.coordinator import batching, compiled, resident
    from groupconv_server.layers import version
    from groupconv_server.planner import plan, statistics
    from groupconv_server.telemetry import series
    from groupconv_worker import autotune
    from groupconv_worker.cpu import compiler
    from groupconv_worker.cpu.algorithms import onnx, plane
    from groupconv_worker.cpu.workspace import BufferPool
    from groupconv_worker.cuda import captured_runs, cudnn, device
    from groupconv_worker.cuda import engine as cuda
    from groupconv_worker.lanes import shards

    rows = re.search(r"### Caches\n.*?\n\n(\| cache .*?)\n\n", OPERATIONS, re.DOTALL)
    assert rows is not None
    table = {cells[1].strip(): cells[3] for cells in (line.split("|") for line in rows[1].splitlines())}
    said = {
        "compiling jobs": [compiler.WAITING, compiler.SEEN],
        "tuning choices": [autotune.CHOICES, autotune.KEPT],
        "scratch memory": [BufferPool.KEPT, BufferPool.LIMIT // MIB],
        "phases": [plane.phases.cache_parameters()["maxsize"], plane.MOST_PHASES],
        "onnxruntime's sessions of one-shot kernels": [onnx.SESSIONS, onnx.SESSION // 1024],
        "captured graphs": [captured_runs.BATCHES],
        "cuDNN's plans": [cudnn.KEPT_PLANS],
        "tap tables on the device": [device.TABLES // MIB],
        "copy programs, launch shapes, choices": [cuda.TUNED],
        "plans": [plan.CACHED],
        "what plans took": [statistics.SHAPES, plan.LONGEST_CHAIN],
        "plans of networks": [version.PLANS],
        "compiled calls of layers": [resident.CALLS, compiled.KEPT],
        "batches": [batching.KEPT],
        "messages of layers' requests": [codec.MAX_CACHED // 1024],
        "series of layers": [series.MAX_LAYERS],
        "Ray lanes": [shards.NUMBERS],
    }
    for cache, numbers in said.items():
        for number in numbers:
            assert re.search(rf"\b{number:,}\b", table[cache]), (cache, number, table[cache])
