"""The files of cluster/ agree with their schemas, with each other, with the code and with their README."""

from __future__ import annotations

import copy
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import problems, read_stages
from kubernetes_models import Container, NetworkPolicy, PodSpec, RayClusterSpec, parse
from pydantic import ValidationError
from test_readme import JOB_OF_SCRIPT, check_script

import ssmttm
from ssmttm import config as configuration

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
RAY_JOBS = [path for path in MANIFESTS if path.name.startswith("rayjob-")]
TARGETS = ("cpu", "cuda")
CODE_IN_IMAGE = "/opt/ssmttm/"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
README = (CLUSTER / "README.md").read_text()
PINNED = dict(
    re.fullmatch(r"([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", line).groups()  # type: ignore[union-attr]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if "==" in line
)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def ray_spec(path: Path) -> RayClusterSpec | None:
    """The Ray cluster that a manifest describes, if it does."""
    spec = getattr(parse(documents(path)[0]), "spec", None)
    if isinstance(spec, RayClusterSpec):
        return spec
    return getattr(spec, "rayClusterSpec", None) or getattr(spec, "rayClusterConfig", None)


RAY_MANIFESTS = [path for path in MANIFESTS if ray_spec(path)]


def pods(path: Path) -> list[PodSpec]:
    spec, found = getattr(parse(documents(path)[0]), "spec", None), []
    cluster = ray_spec(path)
    if cluster:
        groups = [cluster.headGroupSpec, *cluster.workerGroupSpecs]
        found = [group.template.spec for group in groups]
    if hasattr(spec, "submitterPodTemplate"):
        found.append(spec.submitterPodTemplate.spec)
    return found


def gigabytes(quantity: str) -> float:
    assert quantity.endswith("Gi"), quantity
    return int(quantity.removesuffix("Gi")) * 2**30 / 1e9


def arguments_of(path: Path) -> tuple[str, list[str]]:
    """A RayJob's script, as in this repository, and its arguments."""
    python, script, *arguments = shlex.split(documents(path)[0]["spec"]["entrypoint"])
    assert python == "python"
    return script.removeprefix(CODE_IN_IMAGE), arguments


def settings_of(path: Path) -> configuration.Config:
    script, arguments = arguments_of(path)
    place = arguments.index("--preset")
    return configuration.load(arguments[place + 1], arguments[:place] + arguments[place + 2 :], JOB_OF_SCRIPT[script])


# --- Kubernetes


def test_the_manifests_are_those_expected() -> None:
    kinds = {path.name: [document["kind"] for document in documents(path)] for path in MANIFESTS}
    assert kinds == {
        "namespace.yaml": ["Namespace", "ServiceAccount"],
        "networkpolicy.yaml": ["NetworkPolicy"] * 3,
        "raycluster.yaml": ["RayCluster"],
        "rayjob-preprocess.yaml": ["RayJob"],
        "rayjob-train.yaml": ["RayJob"],
        "rayservice.yaml": ["RayService"],
    }


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_fields_and_types(path: Path) -> None:
    for document in documents(path):
        assert parse(document).metadata.namespace == (None if document["kind"] == "Namespace" else "ssmttm")


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every table in a document that has fields of its own, rather than names a user chooses."""
    free = {"labels", "annotations", "rayStartParams", "nodeSelector", "requests", "limits", "matchLabels"}
    found: list[tuple[Any, ...]] = []
    if isinstance(value, dict) and (not at or at[-1] not in free):
        found.append(at)
        for key, inner in value.items():
            found += places(inner, (*at, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            found += places(inner, (*at, place))
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_an_unknown_field_is_refused_anywhere(path: Path) -> None:
    for document in documents(path):
        for at in places(document):
            changed = copy.deepcopy(document)
            inner = changed
            for key in at:
                inner = inner[key]
            inner["replicaz"] = 1
            with pytest.raises(ValidationError, match="replicaz"):
                parse(changed)


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_ray_is_the_pinned_one_and_asks_for_a_token(path: Path) -> None:
    cluster = ray_spec(path)
    assert cluster is not None
    assert cluster.rayVersion == PINNED["ray"]
    assert cluster.authOptions.model_dump() == {"mode": "token", "secretName": "ssmttm-ray-token"}
    assert cluster.enableInTreeAutoscaling == (cluster.autoscalerOptions is not None)
    assert "create secret generic ssmttm-ray-token" in README
    assert "--from-file=auth_token=" in README  # the key that the operator reads


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_pods_run_without_privileges(path: Path) -> None:
    options = ray_spec(path).autoscalerOptions  # type: ignore[union-attr]
    containers: list[Any] = [options] if options else []
    for pod in pods(path):
        security = pod.securityContext
        assert security.runAsNonRoot
        # The image's user; the group makes the bucket role's token readable.
        assert (security.runAsUser, security.runAsGroup, security.fsGroup) == (1000, 1000, 1000)
        assert security.seccompProfile.type == "RuntimeDefault"
        containers += pod.containers
    for container in containers:
        assert not container.securityContext.allowPrivilegeEscalation
        assert container.securityContext.capabilities.drop == ["ALL"]
        assert container.resources.limits.items() <= container.resources.requests.items()
        assert {"cpu", "memory"} <= container.resources.limits.keys()


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_groups(path: Path) -> None:
    """The head holds drivers and stays; only it may speak to Kubernetes; GPU pods have the image and the toleration."""
    cluster = ray_spec(path)
    assert cluster is not None
    head = cluster.headGroupSpec
    assert head.rayStartParams["num-cpus"] == "0"
    assert head.template.spec.nodeSelector["eks.amazonaws.com/capacityType"] == "ON_DEMAND"
    accounts = {parse(document).metadata.name for document in documents(CLUSTER / "kuberay" / "namespace.yaml")}
    for pod in pods(path):
        is_node = pod.containers[0].name in ("ray-head", "ray-worker")
        assert pod.serviceAccountName in (accounts if is_node else {None})
        has_gpu = "nvidia.com/gpu" in pod.containers[0].resources.limits
        assert pod.containers[0].image.endswith("-cuda" if has_gpu else "-cpu")
        assert [one.key for one in pod.tolerations] == (["nvidia.com/gpu"] if has_gpu else [])
    assert all(pod.automountServiceAccountToken is False for pod in pods(path)[1:])


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_a_job_runs_what_the_configuration_accepts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, arguments = arguments_of(path)
    check_script(script, arguments)
    assert f"COPY jobs {CODE_IN_IMAGE}jobs" in DOCKERFILE
    # On the cluster relative paths are refused; these must not be.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    configuration.with_absolute_paths(settings_of(path), JOB_OF_SCRIPT[script])


def nodes_at_start(cluster: RayClusterSpec) -> list[dict[str, Any]]:
    """What `ray.nodes()` says when the operator lets the job start: head and `replicas` of each group are there."""
    nodes: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": 0}}]
    for group in cluster.workerGroupSpecs:
        limits = group.template.spec.containers[0].resources.limits
        resources = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        nodes += [{"Alive": True, "Resources": resources}] * group.replicas
    return nodes


def test_training_fits_its_cluster() -> None:
    from ssmttm.training.ray_launch import check_cluster
    from ssmttm.training.schedule import batch_shape

    path = CLUSTER / "kuberay" / "rayjob-train.yaml"
    cluster, settings = ray_spec(path), settings_of(path)
    assert cluster is not None
    check_cluster(settings, nodes_at_start(cluster))
    batch_shape(settings.train, settings.train.workers)
    (group,) = cluster.workerGroupSpecs
    assert group.minReplicas == group.maxReplicas == settings.train.workers
    container: Container = group.template.spec.containers[0]
    assert container.resources.limits["nvidia.com/gpu"] == "1"
    assert settings.train.cpus_per_worker <= int(container.resources.limits["cpu"])
    assert settings.train.use_gpu
    assert settings.train.max_failures > 2


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-train.yaml"])
def test_a_cluster_that_trains_is_never_a_head_alone(name: str) -> None:
    """Training refuses a lone node that is too small, not knowing that others would be added."""
    cluster = ray_spec(CLUSTER / "kuberay" / name)
    assert cluster is not None
    assert sum(group.minReplicas for group in cluster.workerGroupSpecs) >= 1


def test_preprocessing_uses_the_cluster_it_asks_for() -> None:
    path = CLUSTER / "kuberay" / "rayjob-preprocess.yaml"
    cluster, settings = ray_spec(path), settings_of(path)
    assert cluster is not None
    (group,) = cluster.workerGroupSpecs
    limits = group.template.spec.containers[0].resources.limits
    assert settings.corpus.actors == group.maxReplicas * int(limits["cpu"])
    assert gigabytes(limits["memory"]) / int(limits["cpu"]) >= 3


def test_serving_is_what_serve_accepts() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve.app import Arguments

    path = CLUSTER / "kuberay" / "rayservice.yaml"
    content = yaml.safe_load(documents(path)[0]["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(content).applications
    arguments = Arguments.model_validate(application.args)
    assert application.import_path == "serve.app:build"
    assert arguments.bundle.startswith("s3://")
    generator = next(one for one in application.deployments if one.name == "MusicGenerator")
    cluster = ray_spec(path)
    assert cluster is not None
    (group,) = cluster.workerGroupSpecs
    (container,) = group.template.spec.containers
    assert generator.ray_actor_options.num_cpus < int(container.resources.limits["cpu"])
    assert generator.autoscaling_config["max_replicas"] == group.maxReplicas
    assert [port.containerPort for port in container.ports] == [content["http_options"]["port"]]


def test_only_dashboard_and_service_are_reached_from_outside_the_nodes() -> None:
    policies: list[NetworkPolicy] = [parse(one) for one in documents(CLUSTER / "kuberay" / "networkpolicy.yaml")]
    nodes = {"ray.io/is-ray-node": "yes"}
    opened = {}
    for policy in policies:
        assert policy.spec.policyTypes == ["Ingress"]
        assert policy.spec.podSelector.matchLabels, "a policy for every pod would cut off others in the namespace"
        for rule in policy.spec.ingress:
            if not rule.ports:  # every port: between Ray's nodes alone
                assert policy.spec.podSelector.matchLabels == nodes
                assert [peer.podSelector.matchLabels for peer in rule.from_ if peer.podSelector] == [nodes]
                assert all(peer.namespaceSelector is None for peer in rule.from_)
                continue
            outside = [
                peer.namespaceSelector.matchLabels["kubernetes.io/metadata.name"]
                for peer in rule.from_
                if peer.namespaceSelector
            ]
            opened |= {port.port: outside for port in rule.ports}
    assert opened == {8265: ["kuberay-system"], 8000: ["kuberay-system", "ingress-nginx"]}


# --- machines


@pytest.fixture
def vm_cluster() -> dict[str, Any]:
    """As `ray up` reads it: defaults filled in and checked against Ray's own schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text()))
    validate_config(prepared)
    return prepared


def test_ray_refuses_an_unknown_key_of_the_vm_cluster(vm_cluster: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config({**vm_cluster, "max_wokers": 1})


def test_machines(vm_cluster: dict[str, Any]) -> None:
    types = vm_cluster["available_node_types"]
    head = types[vm_cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"], "a cluster dies with its head"
    workers = {name: one for name, one in types.items() if one is not head}
    for one in workers.values():
        assert one["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert one["node_config"]["IamInstanceProfile"] != head["node_config"]["IamInstanceProfile"]
    for one in types.values():
        assert one["node_config"]["SecurityGroupIds"]  # Ray's own opens port 22 to everyone
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert "KeyName" not in one["node_config"]
    assert sum(one["max_workers"] for one in workers.values()) == vm_cluster["max_workers"]
    assert sum(one["min_workers"] for one in workers.values()) >= 1, "training refuses a head alone"
    (gpu,) = (one for one in workers.values() if "GPU" in one["resources"])
    assert gpu["docker"]["worker_image"].endswith("-cuda")


def test_machines_ask_for_the_token(vm_cluster: dict[str, Any]) -> None:
    assert vm_cluster["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in vm_cluster[key] if "ray start" in command)
        assert start.startswith("RAY_AUTH_MODE=token ")
        check_ray_start(shlex.split(start)[3:])
    assert "--dashboard-host=127.0.0.1" in " ".join(vm_cluster["head_start_ray_commands"])
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert vm_cluster[key] == [], "Ray's defaults would install another Ray"


def check_ray_start(options: list[str]) -> None:
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {option.partition("=")[0] for option in options} - known
    assert not unknown, f"ray start has no {unknown}"


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_ray_start_takes_the_parameters(path: Path) -> None:
    cluster = ray_spec(path)
    assert cluster is not None
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
        check_ray_start([f"--{name}" for name in group.rayStartParams])


# --- the image


def test_dockerfile() -> None:
    ignore = (ROOT / ".dockerignore").read_text()
    assert not problems(DOCKERFILE, ROOT, ignore, TARGETS)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest", "not pinned"),
        ("COPY jobs ", "COPY jobz ", "does not exist"),
        ("COPY jobs ", "COPY tests ", ".dockerignore leaves out"),
        ("--from=build-cpu", "--from=build-cpp", "no stage"),
        ("USER 1000:1000", "USER root", "runs as root"),
        ('CMD ["ssmttm", "doctor"]', "RUN chmod +x /bin/sh", "after USER"),
        ('".[${EXTRAS}]"', '".[dev]"', "for tests"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=abc", "a secret"),
        ("AS cuda", "AS gpu", "no target cuda"),
    ],
)
def test_dockerfile_rules_find(old: str, new: str, problem: str) -> None:
    assert old in DOCKERFILE
    found = problems(DOCKERFILE.replace(old, new), ROOT, (ROOT / ".dockerignore").read_text(), TARGETS)
    assert any(problem in one for one in found), found


def test_the_image_has_the_projects_versions() -> None:
    stages = read_stages(DOCKERFILE)
    installed = set(re.findall(r"torch==(\S+)", DOCKERFILE))
    assert installed == {PINNED["torch"]}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"EXTRAS=(\w+)", "\n".join(stages["build-cpu"].values("ARG")))) <= set(extras)
    for name in ("mamba-ssm", "causal-conv1d"):  # built by hand: the same as the extra wants
        (wanted,) = (one for one in extras["cuda"] if one.startswith(name))
        assert f'"{wanted}"' in DOCKERFILE
    for target in TARGETS:
        assert f'version="{ssmttm.__version__}"' in " ".join(stages[target].values("LABEL"))


def test_every_image_is_one_of_ours_at_this_version() -> None:
    text = "\n".join(path.read_text() for path in [*MANIFESTS, CLUSTER / "ray-cluster.yaml"])
    images = set(re.findall(r"^\s+(?:worker_)?image: (\S+)", text, flags=re.MULTILINE))
    assert images == {f"CHANGE-ME-REGISTRY/ssmttm:{ssmttm.__version__}-{target}" for target in TARGETS}
    for target in TARGETS:
        assert re.search(rf"--target {target}\s+-t \S+/ssmttm:{ssmttm.__version__}-{target} \.", README)


# --- what the README says


def test_the_readme_lists_what_must_be_changed() -> None:
    """CHANGE-ME-... marks every such value; no bucket, image or machine can be called so."""
    files = [*MANIFESTS, CLUSTER / "ray-cluster.yaml"]
    used = {mark for path in files for mark in re.findall(r"CHANGE-ME-[A-Z-]*[A-Z]", path.read_text())}
    listed = set(re.findall(r"^\| `(CHANGE-ME-[A-Z-]+)`", README, flags=re.MULTILINE))
    assert used == listed
    for path in files:
        values = path.read_text()
        assert not re.search(r"s3://(?!CHANGE-ME-BUCKET/)", values), path
        assert not re.search(r"\b(example\.com|my-bucket|\d{12})\b", values), path


def test_the_readme_names_every_file() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.name != "README.md":
            name = path.relative_to(CLUSTER).as_posix()
            shown = "deepspeed/" if name.startswith("deepspeed/") else name
            assert shown in README, f"cluster/README.md does not mention {shown}"


def test_the_readmes_figures_are_the_models() -> None:
    from ssmttm.doctor import examine

    models = examine("paper")
    stage1, stage2 = models["stage1"], models["stage2"]
    assert f"{stage1['train_memory_bytes'] / 1e9:.1f} GB" in README
    # Weights, two moments, the average: four times fp32.
    assert f"{16 * stage1['trainable_params'] / 1e9:.1f} GB" in README
    settings = configuration.load("paper", job="stage2")
    frames = settings.train.global_batch * settings.train.steps * settings.stage2.crop_frames
    for flops in (stage1["train_flops_total"], 6 * stage2["trainable_params"] * frames):
        hours = flops / (0.2 * 989e12) / 3600
        assert f"{hours:.1f} h" in README or f"{hours:.0f} h" in README
        assert f"{hours / 8:.1f} h" in README


# --- DeepSpeed


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_files_are_what_training_uses(stage: int) -> None:
    from ssmttm.training.deepspeed_engine import zero_config

    assert json.loads((CLUSTER / "deepspeed" / f"zero{stage}.json").read_text()) == zero_config(stage)


def test_there_is_a_deepspeed_file_for_each_stage_and_no_other() -> None:
    names = sorted(path.name for path in (CLUSTER / "deepspeed").iterdir())
    assert names == [f"zero{stage}.json" for stage in range(4)]
