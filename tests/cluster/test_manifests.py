"""The Kubernetes manifests agree with the published fields, with each other and with the code."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import (
    CLUSTER,
    CODE_IN_IMAGE,
    DOCKERFILE,
    MANIFESTS,
    PINNED,
    RAY_JOBS,
    RAY_MANIFESTS,
    README,
    arguments_of,
    check_ray_start,
    documents,
    gigabytes,
    pods,
    ray_spec,
    settings_of,
)
from kubernetes_models import Container, NetworkPolicy, RayClusterSpec, parse
from pydantic import ValidationError
from test_readme import JOB_OF_SCRIPT, check_script

from ssmttm import config as configuration


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
    from ssmttm.training.launch import check_cluster
    from ssmttm.training.order import batch_shape

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


def test_training_waits_at_a_head_alone_for_the_machines_of_the_standing_cluster() -> None:
    """KubeRay puts the name of a pod's group into RAY_NODE_TYPE_NAME, which Ray makes a label of."""
    from ssmttm.training.launch import NODE_GROUP, check_cluster

    cluster = ray_spec(CLUSTER / "kuberay" / "raycluster.yaml")
    assert cluster is not None
    (head,) = nodes_at_start(cluster)
    settings = settings_of(CLUSTER / "kuberay" / "rayjob-train.yaml")
    assert check_cluster(settings, [head | {"Labels": {NODE_GROUP: "headgroup"}}]).endswith("needs 64 CPUs, Ray has 0")
    assert cluster.enableInTreeAutoscaling, "nobody would add any"


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
    from serve.limits import KEYS_VARIABLE

    path = CLUSTER / "kuberay" / "rayservice.yaml"
    content = yaml.safe_load(documents(path)[0]["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(content).applications
    arguments = Arguments.model_validate(application.args)
    assert application.import_path == "serve.app:build"
    assert arguments.bundle.startswith("s3://")
    cluster = ray_spec(path)
    assert cluster is not None
    (group,) = cluster.workerGroupSpecs
    (container,) = group.template.spec.containers
    deployments = {one.name: one for one in application.deployments}
    assert set(deployments) == {"LanguageModel", "Renderer"}
    both = [one.ray_actor_options for one in deployments.values()]
    assert sum(one.num_cpus for one in both) < int(container.resources.limits["cpu"])
    assert sum(one.num_gpus for one in both) == 1, "a language model and a renderer share each GPU"
    for one in deployments.values():
        assert one.autoscaling_config["max_replicas"] == group.maxReplicas
    # It listens beyond loopback, where it refuses to start without keys, wherever Ray puts the ingress.
    for one in (cluster.headGroupSpec.template.spec.containers[0], container):
        assert [variable.name for variable in one.env] == [KEYS_VARIABLE]
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


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_ray_start_takes_the_parameters(path: Path) -> None:
    cluster = ray_spec(path)
    assert cluster is not None
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
        check_ray_start([f"--{name}" for name in group.rayStartParams])
