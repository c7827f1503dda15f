"""The fields of Kubernetes and KubeRay objects that `cluster/kuberay` uses, typed; any other field is refused.

Not the whole API: a manifest that needs one more field adds it here, after a look at the reference. KubeRay: the
`ray.io/v1` reference of 1.6 (docs.ray.io, "KubeRay CRD API reference"); Kubernetes: core/v1 and networking.k8s.io/v1.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(m|Ki|Mi|Gi|Ti)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Resources = dict[Literal["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"], Quantity]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: Name
    namespace: Name | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


# --- pods


class Capabilities(Strict):
    drop: list[str]


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: bool
    capabilities: Capabilities


class SeccompProfile(Strict):
    type: Literal["RuntimeDefault", "Localhost", "Unconfined"]


class PodSecurity(Strict):
    runAsNonRoot: bool
    runAsUser: int
    runAsGroup: int
    fsGroup: int
    seccompProfile: SeccompProfile


class ContainerPort(Strict):
    name: Name
    containerPort: Port


class ResourceRequirements(Strict):
    requests: Resources
    limits: Resources


class SecretKey(Strict):
    name: Name
    key: str


class VariableSource(Strict):
    secretKeyRef: SecretKey


class Variable(Strict):
    """From a Secret only: a value would be in the repository."""

    name: str
    valueFrom: VariableSource


class Container(Strict):
    name: Name
    image: str
    resources: ResourceRequirements
    securityContext: ContainerSecurity
    ports: list[ContainerPort] = []
    env: list[Variable] = []


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class PodSpec(Strict):
    containers: list[Container] = Field(min_length=1)
    securityContext: PodSecurity
    serviceAccountName: Name | None = None
    automountServiceAccountToken: bool | None = None
    nodeSelector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    restartPolicy: Literal["Always", "OnFailure", "Never"] | None = None


class PodTemplate(Strict):
    spec: PodSpec


# --- KubeRay


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]
    secretName: Name


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: int
    resources: ResourceRequirements
    securityContext: ContainerSecurity


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(Strict):
    groupName: Name
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1)
    rayStartParams: dict[str, str]
    template: PodTemplate

    @model_validator(mode="after")
    def _replicas_within_bounds(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(f"{self.groupName}: replicas outside minReplicas..maxReplicas")
        return self


class RayClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = Field(min_length=1)


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJobSpec(Strict):
    entrypoint: str
    backoffLimit: int = 0
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    rayClusterSpec: RayClusterSpec
    submitterPodTemplate: PodTemplate


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class RayServiceSpec(Strict):
    serveConfigV2: str
    excludeHeadPodFromServeSvc: bool
    rayClusterConfig: RayClusterSpec


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec


# --- the namespace and its network


class Namespace(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["Namespace"]
    metadata: Metadata


class ServiceAccount(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["ServiceAccount"]
    metadata: Metadata


class LabelSelector(Strict):
    matchLabels: dict[str, str] = {}


class Peer(Strict):
    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None


class PolicyPort(Strict):
    protocol: Literal["TCP", "UDP", "SCTP"]
    port: Port


class IngressRule(Strict):
    from_: list[Peer] = Field(alias="from", min_length=1)  # none would mean: from everywhere
    ports: list[PolicyPort] = []  # none means: every port


class NetworkPolicySpec(Strict):
    podSelector: LabelSelector
    policyTypes: list[Literal["Ingress", "Egress"]]
    ingress: list[IngressRule]


class NetworkPolicy(Strict):
    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: NetworkPolicySpec


KINDS: dict[str, type[Strict]] = {
    kind.__name__: kind for kind in (RayCluster, RayJob, RayService, Namespace, ServiceAccount, NetworkPolicy)
}


def parse(document: dict[str, Any]) -> Any:
    """One object of a manifest as its model.

    Raises:
        ValidationError: for a field that is missing, unknown or of another type.
    """
    return KINDS[document["kind"]].model_validate(document)
