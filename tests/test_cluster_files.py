"""The files of cluster/: the image, compose.yaml, the manifests of Kubernetes. Checked as far as that goes without a
Docker daemon and without a cluster: schemas, references between files, settings and commands that exist."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DATA, ROOT
from kustomization import Object, composed

from soldiom_ray.services import ray_head
from soldiom_ray.settings import load_settings

CLUSTER = ROOT / "cluster"
OVERLAYS = ("dev", "production", "gpu")
KUBERNETES = "1.34"
OF_A_HOME = re.compile(r"PATH|RAY_AUTH_.*|RAY_SERVE_HAPROXY_.*|(AUTOSCALER|DASHBOARD)_METRIC_PORT|.*WINDOWS_OR.*")
"""Variables of a home's own head that mean nothing to a cluster's, or that its operator sets."""
SECRETS = {
    "soldiom": {"SOLDIOM_DATABASE_URL", "SOLDIOM_ENCRYPTION_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "soldiom-ray": {"auth_token"},
    "soldiom-redis": {"password"},
    "soldiom-mlflow": {"database"},
    "soldiom-data": {"postgres"},
    "soldiom-tls": {"tls.crt", "tls.key"},
    "soldiom-prometheus-key": {"key"},
}
"""Made by hand, by docs/deploy.md."""


@pytest.fixture(scope="module")
def compose() -> Object:
    loaded: Object = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
    return loaded


@cache
def overlay(name: str) -> list[Object]:
    return composed(CLUSTER / "kubernetes/overlays" / name)


def find(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """(name, template) of every pod of the objects."""
    for each in objects:
        spec, name = each.get("spec", {}), each["metadata"]["name"]
        if each["kind"] == "RayCluster":
            yield "ray-head", spec["headGroupSpec"]["template"]
            yield from ((f"ray-{group['groupName']}", group["template"]) for group in spec["workerGroupSpecs"])
        elif "template" in spec:
            yield name, spec["template"]


def known_settings() -> set[str]:
    text = (ROOT / "soldiom_ray/settings.py").read_text()
    return set(re.findall(r'"((?:SOLDIOM|HF|MLFLOW)_[A-Z_0-9]+)"', text))


def own_settings(environment: dict[str, Any]) -> set[str]:
    """Those of ours; HF_HUB_…, MLFLOW_SERVER_… and their like are read by those libraries."""
    ours = ("SOLDIOM_", "HF_TOKEN", "HF_ENDPOINT", "MLFLOW_TRACKING_URI")
    return {name for name in environment if name.startswith(ours)}


# The image


def stages() -> dict[str, list[str]]:
    """The lines of each stage of the Dockerfile by its name, those of the stages below it first."""
    made: dict[str, list[str]] = {}
    name = ""
    for line in re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text()).splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = start[2]
            made[name] = list(made.get(start[1], []))
        elif name and line.strip() and not line.startswith("#"):
            made[name].append(line)
    return made


def test_both_images_run_without_rights_and_without_build_tools() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
    made = list(stages())
    assert made[-1] == "cpu"
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${BASE}", *made}
    for target in ("cpu", "gpu"):
        lines = stages()[target]
        assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
        assert any(line.startswith("HEALTHCHECK") for line in lines)
        assert not re.search(r"apt-get|\bgcc\b|\bmake\b|build-essential|\bpip\b", "\n".join(lines))
        assert f"COPY --from=packages-{target} /opt/soldiom /opt/soldiom" in lines


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    rules = (CLUSTER / "Dockerfile.dockerignore").read_text().split()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    for line in re.findall(r"^COPY (?!.*--from)(.*)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in allowed or source.split("/")[0] in allowed, source


def test_the_scripts_are_scripts() -> None:
    for name in ("head.sh", "home.sh", "secrets.sh"):
        assert os.access(CLUSTER / name, os.X_OK)
        subprocess.run(["bash", "-n", str(CLUSTER / name)], check=True)


# compose.yaml


def test_services_of_compose_name_what_there_is(compose: Object) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services, (name, needed)
            assert how["condition"] == "service_completed_successfully" or "test" in services[needed]["healthcheck"]
        assert set(service["networks"]) <= set(compose["networks"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (CLUSTER / source).exists() if source.startswith("./") else source in compose["volumes"]
        assert re.fullmatch(r"soldiom:cpu|[a-z/]+:(v?\d+\.\d+|RELEASE\.\d{4})\S*", service["image"])


def test_compose_publishes_the_edge_alone(compose: Object) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert [port for port in published.pop("edge") if not port.startswith(("80:80", "443:443"))] == []
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert compose["networks"]["data"]["internal"] is True


def test_compose_sets_only_settings_that_are_read_and_needs_every_secret(compose: Object) -> None:
    for service in compose["services"].values():
        environment = service.get("environment", {})
        assert own_settings(environment) - known_settings() == set()
    text = (CLUSTER / "compose.yaml").read_text()
    written = set(re.findall(r"^(\w+)=", (CLUSTER / "secrets.sh").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", text)) == written
    assert not [name for name in re.findall(r"\$\{(\w+):-", text) if not name.startswith("EDGE_")]


def test_the_file_of_secrets_is_the_owners_and_is_made_once(tmp_path: Path) -> None:
    shutil.copy(CLUSTER / "secrets.sh", tmp_path)
    command = [str(tmp_path / "secrets.sh"), "api.example.org", "you@example.org"]
    subprocess.run(command, check=True, capture_output=True)
    first = (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=", 1) for line in first.splitlines())
    assert (values["EDGE_DOMAIN"], values["EDGE_TLS"]) == ("api.example.org", "you@example.org")
    load_settings({"SOLDIOM_HOME": str(tmp_path), "SOLDIOM_ENCRYPTION_KEY": values["SOLDIOM_ENCRYPTION_KEY"]})
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / ".env").read_text() == first


def commands(compose: Object) -> Iterator[list[str]]:
    for service in compose["services"].values():
        yield [str(word) for word in service.get("command", ())]
    for name in OVERLAYS:
        for _, template in pods(overlay(name)):
            for container in template["spec"]["containers"]:
                yield [str(word) for word in (*container.get("command", ()), *container.get("args", ()))]


def test_every_command_of_soldiom_and_ray_exists(compose: Object) -> None:
    from ray.scripts.scripts import start

    from soldiom_ray.cli.app import app

    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    options = {option for parameter in start.params for option in parameter.opts}
    seen = set()
    for words in commands(compose):
        if words[:1] == ["soldiom"]:
            assert words[1] in own
            seen.add(words[1])
        if "ray" in words and "start" in words:
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert given <= options
            seen.add("ray")
    assert seen == {"migrate", "ray"}
    for group in (cluster := find(overlay("gpu"), "RayCluster", "soldiom")["spec"])["workerGroupSpecs"]:
        assert {f"--{name}" for name in group["rayStartParams"]} <= options
    assert {f"--{name}" for name in cluster["headGroupSpec"]["rayStartParams"]} <= options


def test_nodes_of_a_cluster_get_what_up_gives_a_head_of_its_own(compose: Object, tmp_path: Path) -> None:
    settings = load_settings({"SOLDIOM_HOME": str(tmp_path)})
    wanted = {
        name: value
        for name, value in ray_head._environment(settings, 20000, "http://ray-head:8265").items()
        if not OF_A_HOME.fullmatch(name)
    }
    kubernetes = find(overlay("dev"), "ConfigMap", "soldiom-settings")["data"]
    for environment in (
        compose["services"]["ray-head"]["environment"], compose["services"]["ray-worker"]["environment"], kubernetes,
    ):  # fmt: skip
        assert {name: str(environment.get(name)) for name in wanted} == wanted
        assert environment.get("RAY_AUTH_MODE", "token") == "token"


def test_the_bucket_is_made_once(compose: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws

    [dev] = [template for name, template in pods(overlay("dev")) if name == "bucket"]
    programs = {compose["services"]["bucket"]["command"][-1], dev["spec"]["containers"][0]["command"][-1]}
    assert len(programs) == 1
    for name, value in {"SOLDIOM_S3_ENDPOINT": "", "SOLDIOM_STORAGE": "s3://soldiom/home"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client
        monkeypatch.setattr(boto3, "client", lambda name, endpoint_url: client(name))
        for _ in range(2):
            exec(programs.copy().pop(), {})
        assert [each["Name"] for each in client("s3").list_buckets()["Buckets"]] == ["soldiom"]


# Kubernetes


@pytest.mark.parametrize("name", OVERLAYS)
def test_objects_of_kubernetes_fit_its_schemas(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not installed")
    checked = [each for each in overlay(name) if not each["apiVersion"].startswith("ray.io/")]
    for each in checked:
        validator.validate(each, KUBERNETES, strict=True)
    assert len(checked) > 25
    broken = copy.deepcopy(find(checked, "Deployment", "edge"))
    broken["spec"]["template"]["spec"]["containers"][0]["imagePull"] = "Always"
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, KUBERNETES, strict=True)


def closed(schema: Any) -> Any:
    """The schema with no properties but those it names, and with numbers where it takes both."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


@cache
def kuberay_schema(plural: str) -> Any:
    folder = DATA / "kuberay_crds"
    if not folder.is_dir():
        pytest.skip(f"KubeRay's definitions are not at {folder}")
    declared = yaml.load((folder / f"ray.io_{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)
    [version] = [each for each in declared["spec"]["versions"] if each["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": True}
    return closed(schema)


def test_clusters_and_jobs_fit_kuberays_definitions() -> None:
    import jsonschema

    for name in OVERLAYS:
        cluster = find(overlay(name), "RayCluster", "soldiom")
        jsonschema.validate(cluster, kuberay_schema("rayclusters"))
    job = yaml.safe_load((CLUSTER / "kubernetes/workflow.yaml").read_text())
    jsonschema.validate(job, kuberay_schema("rayjobs"))
    broken = copy.deepcopy(cluster)
    broken["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, kuberay_schema("rayclusters"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_makes_the_same(name: str) -> None:
    folder = str(CLUSTER / "kubernetes/overlays" / name)
    program = [["kustomize", "build"]] if shutil.which("kustomize") else []
    program += [["kubectl", "kustomize"]] if shutil.which("kubectl") else []
    if not program:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*program[0], folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def plain(objects: list[Object]) -> dict[tuple[str, str], Object]:
        text = re.sub(r"(soldiom-(?:edge|prometheus|postgres-init))-[a-z0-9]{10}\b", r"\1", json.dumps(objects))
        return {(each["kind"], each["metadata"]["name"]): each for each in json.loads(text)}

    theirs = list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))
    assert plain(theirs) == plain(overlay(name))


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_are_restricted(name: str) -> None:
    labels = find(overlay(name), "Namespace", "soldiom")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod, template in pods(overlay(name)):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, pod
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        assert pod == "ray-head" or spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), pod
        kinds = {kind for volume in spec.get("volumes", ()) for kind in volume} - {"name"}
        assert kinds <= {"configMap", "secret", "projected", "emptyDir", "persistentVolumeClaim"}, pod
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, pod
            assert context["capabilities"]["drop"] == ["ALL"], pod
            assert set(context["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}, pod
            assert {"requests", "limits"} <= set(container["resources"]), pod
            job = pod in ("migrate", "bucket")
            probed = job or pod in ("ray-cpu", "ray-gpu") or {"readinessProbe", "livenessProbe"} <= set(container)
            assert probed, pod  # KubeRay gives workers their probes
            assert re.fullmatch(r".+:(?!latest)[\w.-]+", container["image"]), pod


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_and_references_find_something(name: str) -> None:
    objects = overlay(name)
    labels = [template["metadata"]["labels"] for _, template in pods(objects)]
    group = {"ray.io/cluster": "soldiom"}
    labels += [{**group, "ray.io/node-type": role, "app.kubernetes.io/component": "ray"} for role in ("head", "worker")]

    def is_found(selector: Object) -> bool:
        wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
        wanted += [(each["key"], each["values"]) for each in selector.get("matchExpressions", ())]
        return any(all(each.get(key) in values for key, values in wanted) for each in labels)

    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            assert is_found({"matchLabels": spec["selector"]}), each
        if each["kind"] == "PodDisruptionBudget":
            assert is_found(spec["selector"]), each
        if each["kind"] == "NetworkPolicy":
            assert is_found(spec["podSelector"]), each
            peers = [peer for rule in spec.get("ingress", ()) for peer in rule.get("from", ())]
            peers += [peer for rule in spec.get("egress", ()) for peer in rule.get("to", ())]
            assert all(is_found(peer["podSelector"]) for peer in peers if set(peer) == {"podSelector"}), each
        if each["kind"] in ("Deployment", "StatefulSet"):
            chosen, template = spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]
            assert chosen.items() <= template.items()
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert find(objects, "NetworkPolicy", "deny-all")["spec"] == nothing


@pytest.mark.parametrize("name", OVERLAYS)
def test_settings_are_read_and_secrets_are_those_that_the_docs_make(name: str) -> None:
    objects, docs = overlay(name), (ROOT / "docs/deploy.md").read_text()
    config_maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    assert own_settings(config_maps["soldiom-settings"]) - known_settings() == set()
    assert own_settings(dict.fromkeys(SECRETS["soldiom"])) - known_settings() == set()
    assert not [each for each in objects if each["kind"] == "Secret"]  # none is committed
    text = json.dumps([template for _, template in pods(objects)])
    for pattern, known in (
        (r'"configMapKeyRef": ({[^}]*})', config_maps), (r'"secretKeyRef": ({[^}]*})', SECRETS),
    ):  # fmt: skip
        for reference in map(json.loads, re.findall(pattern, text)):
            assert reference.get("optional") or reference["key"] in known[reference["name"]], reference
    for kind in ("configMapRef", "secretRef"):
        for reference in map(json.loads, re.findall(rf'"{kind}": ({{[^}}]*}})', text)):
            assert reference["name"] in (config_maps if kind == "configMapRef" else SECRETS)
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    assert set(re.findall(r'"claimName": "([^"]+)"', text)) <= claims
    for secret, keys in SECRETS.items():
        assert secret in docs and all(key in docs for key in keys if not key.startswith("tls.")), secret


def test_the_cluster_asks_for_its_token_and_survives_its_head() -> None:
    spec = find(overlay("production"), "RayCluster", "soldiom")["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "soldiom-ray"}
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    assert spec["enableInTreeAutoscaling"] is True
    import ray

    assert spec["rayVersion"] == ray.__version__
    _, gpu = find(overlay("gpu"), "RayCluster", "soldiom")["spec"]["workerGroupSpecs"]
    assert gpu["minReplicas"] == 0 < gpu["maxReplicas"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
