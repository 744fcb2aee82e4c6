"""The Kubernetes files: every object is legal, they fit together, and pods get the memory that they may use."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import trustme
import yaml
from typer.testing import CliRunner

from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text, new_token
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.server import Server
from memory_formula import MIB_PER, needed

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy/k8s"
KUBERNETES = "1.32"
KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
FOLDERS = ["base", "overlays/tls", "overlays/production", "overlays/two"]
RAY_GROUP = {"groupName", "template", "rayStartParams", "replicas", "minReplicas", "maxReplicas", "numOfHosts"}
"""Fields of a group of workers in KubeRay's ray.io/v1, of those that are used here."""

RAY_AUTOSCALER = {"idleTimeoutSeconds", "upscalingMode", "version", "image", "imagePullPolicy", "resources"}
RAY_AUTOSCALER |= {"securityContext", "env", "envFrom", "volumeMounts"}
"""Fields of autoscalerOptions."""


def by_name(*texts):
    """Objects by kind and name."""
    return {(o["kind"], o["metadata"]["name"]): o for text in texts for o in yaml.safe_load_all(text)}


@functools.cache
def built(folder):
    """The objects of a kustomization. The base changes none of its files, so only overlays need kubectl."""
    kustomization = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())
    if kustomization.keys() == {"apiVersion", "kind", "resources"}:
        return by_name(*((K8S / folder / name).read_text() for name in kustomization["resources"]))
    if not KUBECTL:
        pytest.skip("no kubectl, which builds overlays; the base was checked")
    command = [KUBECTL, "kustomize", str(K8S / folder)]
    return by_name(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def raycluster():
    return next(o for o in yaml.safe_load_all((K8S / "kuberay.yml").read_text()) if o["kind"] == "RayCluster")


def templates():
    """Every pod that there is, by a name."""
    found = {}
    for part in ("coordinator", "worker"):
        for o in yaml.safe_load_all((K8S / "base" / f"{part}.yml").read_text()):
            if o["kind"] == "Deployment":
                found[f"base {part}"] = o["spec"]["template"]
    found["kuberay head"] = raycluster()["spec"]["headGroupSpec"]["template"]
    for group in raycluster()["spec"]["workerGroupSpecs"]:
        found[f"kuberay {group['groupName']}"] = group["template"]
    return found


PODS = templates()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_legal(folder):
    for o in built(folder).values():
        kubernetes_validate.validate(o, KUBERNETES, strict=True)


def test_an_object_with_a_misspelled_field_is_not_legal():
    policy = yaml.safe_load((K8S / "base/network.yml").read_text())
    policy["spec"]["podSelektor"] = policy["spec"].pop("podSelector")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(policy, KUBERNETES, strict=True)


def test_the_objects_for_kuberay_are_legal():
    """No package has the schema of RayCluster: its pods are Kubernetes' own, and its fields are listed above."""
    for o in yaml.safe_load_all((K8S / "kuberay.yml").read_text()):
        if o["kind"] != "RayCluster":
            kubernetes_validate.validate(o, KUBERNETES, strict=True)
    spec = raycluster()["spec"]
    fields = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
    assert set(spec) <= fields
    assert set(spec["autoscalerOptions"]) <= RAY_AUTOSCALER
    assert set(spec["headGroupSpec"]) <= {"template", "rayStartParams", "serviceType", "enableIngress"}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert set(group) <= RAY_GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", **group["template"]["metadata"]}}
        kubernetes_validate.validate(pod | {"spec": group["template"]["spec"]}, KUBERNETES, strict=True)
    joined = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["command"][-1]
    assert joined == f"{raycluster()['metadata']['name']}-head-svc:6379"  # the service that the operator makes


def test_the_coordinator_has_the_same_probes_with_kuberay():
    base, kuberay = (PODS[name]["spec"]["containers"][0] for name in ("base coordinator", "kuberay head"))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert kuberay[probe] == base[probe]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_whole(name):
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    assert {"/tmp", "/home/groupconv", "/dev/shm"} <= set(mounts.values())
    assert spec["terminationGracePeriodSeconds"] > 30  # --grace
    assert {"readinessProbe", "resources", "securityContext"} <= container.keys()
    assert "RAY_AUTH_MODE" in {variable["name"] for variable in container["env"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    if container["name"] == "coordinator":
        assert {port["containerPort"] for port in container["ports"]} >= {50051, 9464}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_gets_the_memory_that_it_may_use(name):
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    resources = container["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    total = mib(resources["requests"]["memory"])
    volumes = {v["name"]: v["emptyDir"] for v in spec["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"}
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    inside = sum(mib(volume["sizeLimit"]) for volume in volumes.values())
    assert needed(container["name"], variables, inside) <= total
    assert mib(volumes["shm"]["sizeLimit"]) > 0.3 * total


def mib(size):
    """MiB of a Kubernetes quantity."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", size).groups()
    return int(number) * MIB_PER[unit]


def test_no_variable_of_a_service_takes_the_place_of_an_option():
    """Kubernetes sets NAME_PORT=tcp://… for every Service of the namespace, and ours is called groupconv."""
    assert {name for name in PODS if PODS[name]["spec"].get("enableServiceLinks") is not False} <= {
        name
        for name in PODS
        if name.startswith("kuberay")  # whose services have other names
    }


def test_services_and_policies_select_pods_that_there_are():
    labels = [template["metadata"]["labels"] for template in PODS.values()]
    for (kind, _), o in built("base").items():
        selector = o["spec"].get("podSelector", o["spec"].get("selector"))
        if kind not in ("Service", "NetworkPolicy", "PodDisruptionBudget", "Deployment"):
            continue
        selector = selector.get("matchLabels", selector)
        assert any(selector.items() <= found.items() for found in labels), kind


def test_every_rule_of_the_policy_says_who_may_connect():
    policy = yaml.safe_load((K8S / "base/network.yml").read_text())["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert all(rule.get("from") for rule in policy["ingress"])
    others = [rule for rule in policy["ingress"] if rule["from"] != [{"podSelector": policy["podSelector"]}]]
    assert sorted(port["port"] for rule in others for port in rule["ports"]) == [9464, 50051]  # none of Ray's


def test_layers_outlive_the_pod():
    spec = PODS["base coordinator"]["spec"]
    (container,) = spec["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == variables["GROUPCONV_LAYER_DIR"]]
    (volume,) = [v for v in spec["volumes"] if v["name"] == mount["name"]]
    claim = yaml.safe_load((K8S / "base/layers.yml").read_text())
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_with_tls_the_probes_are_the_command_and_the_files_are_mounted():
    objects = built("overlays/tls")
    spec = objects["Deployment", "groupconv-coordinator"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"][:2] == ["groupconv", "health"]
        assert "grpc" not in container[probe]
        assert container[probe]["timeoutSeconds"] > float(container[probe]["exec"]["command"][-1])
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    mounts = tuple(mount["mountPath"] + "/" for mount in container["volumeMounts"])
    for name in ("GROUPCONV_TLS_CERT", "GROUPCONV_TLS_KEY", "GROUPCONV_TOKENS", "GROUPCONV_CA"):
        assert variables[name].startswith(mounts)
    assert objects["Service", "groupconv"]["spec"]["ports"][0]["appProtocol"] == "https"


def test_with_tls_the_probe_finds_the_server_by_the_name_in_its_certificate(tmp_path):
    """The command of the probe with the variables of the pod, against a server with the files of the Secret."""
    objects = built("overlays/tls")
    (container,) = objects["Deployment", "groupconv-coordinator"]["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    authority = trustme.CA()
    certificate = authority.issue_cert(objects["Service", "groupconv"]["metadata"]["name"])
    files = {
        name: tmp_path / Path(variables[name]).name
        for name in ("GROUPCONV_TLS_CERT", "GROUPCONV_TLS_KEY", "GROUPCONV_CA")
    }
    certificate.cert_chain_pems[0].write_to_path(str(files["GROUPCONV_TLS_CERT"]))
    certificate.private_key_pem.write_to_path(str(files["GROUPCONV_TLS_KEY"]))
    authority.cert_pem.write_to_path(str(files["GROUPCONV_CA"]))
    (tmp_path / "tokens.toml").write_text(entry_text("alice", new_token(), CallerLimits()))
    config = Config(
        port=0,
        executor="local",
        workers=1,
        engine="reference",
        tls_cert=files["GROUPCONV_TLS_CERT"],
        tls_key=files["GROUPCONV_TLS_KEY"],
        tokens=tmp_path / "tokens.toml",
    )
    command = container["readinessProbe"]["exec"]["command"]
    with Server(config) as server:
        env = variables | {name: str(path) for name, path in files.items()} | {"GROUPCONV_TARGET": server.address}
        done = CliRunner().invoke(app("health"), command[1:], env=env)
        assert (done.exit_code, done.output) == (0, "SERVING\n")
        other = CliRunner().invoke(app("health"), command[1:], env=env | {"GROUPCONV_SERVER_NAME": "another"})
        assert other.exit_code == 1


def test_each_of_two_coordinators_has_its_workers_and_clients_reach_both():
    objects = built("overlays/two")
    pods = {
        o["spec"]["template"]["metadata"]["labels"]["share"]: o
        for (kind, _), o in objects.items()
        if kind == "Deployment"
    }
    assert set(pods) == {"a", "b"}
    for share in pods:
        labels = {"app": "groupconv", "part": "coordinator", "share": share}
        joined = objects["Deployment", f"groupconv-worker-{share}"]["spec"]["template"]["spec"]["containers"][0][
            "args"
        ][-1]
        assert joined == f"groupconv-ray-{share}:6379"
        assert objects["Service", f"groupconv-ray-{share}"]["spec"]["selector"] == labels
        coordinator = objects["Deployment", f"groupconv-coordinator-{share}"]["spec"]["template"]
        assert coordinator["metadata"]["labels"] == labels
        claims = [
            v["persistentVolumeClaim"]["claimName"]
            for v in coordinator["spec"]["volumes"]
            if "persistentVolumeClaim" in v
        ]
        assert claims == [f"groupconv-layers-{share}"]
        policy = objects["NetworkPolicy", f"groupconv-{share}"]["spec"]
        assert policy["podSelector"] == {"matchLabels": {"app": "groupconv", "share": share}}
        assert policy["ingress"][0]["from"] == [{"podSelector": policy["podSelector"]}]
        assert policy["ingress"][1]["from"] == [{"podSelector": {"matchLabels": {"groupconv-client": "true"}}}]
    every = objects["Service", "groupconv"]["spec"]
    assert (every["clusterIP"], every["selector"]) == ("None", {"app": "groupconv", "part": "coordinator"})


def test_the_autoscaler_has_the_workers_to_itself():
    objects = built("overlays/production")
    target = objects["HorizontalPodAutoscaler", "groupconv-worker"]["spec"]["scaleTargetRef"]
    assert "replicas" not in objects[target["kind"], target["name"]]["spec"]
    assert "replicas" in built("base")[target["kind"], target["name"]]["spec"]
