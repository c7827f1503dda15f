"""Three Ray Serve deployments: an HTTP ingress, the renderer it calls, and the language model that the renderer calls.
Each scales by itself.

Start them with: serve run serve.app:build
"""

# Not `from __future__ import annotations`: Ray needs the class itself in the annotation of `build`, not its name.

import json
import logging
import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from serve.api import make_api
from serve.guard import logger
from serve.job_runner import JobRunner
from serve.jobs import JobStore
from serve.language_model import LanguageModel
from serve.limits import Keys, Limits, check_exposure
from serve.remote import RemoteLanguageModel, RemoteRenderer
from serve.renderer import Renderer
from serve.service import Service
from ssmttm import storage
from ssmttm.bundle.load import check_bundle, shipped_bundle


class RendererReplica(Renderer):
    """A renderer that takes codes from the language models' deployment."""

    def __init__(self, bundle: str, language_model: DeploymentHandle, clips: int, deterministic: bool):
        super().__init__(bundle, RemoteLanguageModel(language_model), clips, deterministic)


class MusicAPI:
    """Checks requests, forwards them, and answers with audio.

    Raises:
        UserError: if it would be open on a network.
    """

    def __init__(
        self,
        language_model: DeploymentHandle,
        renderer: DeploymentHandle,
        limits: Limits,
        keys_uri: str | None,
        jobs: str,
    ):
        # Serve writes its own logger's lines, and those below it, to the replica's log.
        logger.setLevel(logging.INFO)
        logger.parent = logging.getLogger("ray.serve")
        self._keys = Keys.read(keys_uri)
        check_exposure(listening_host(), self._keys)
        self._service, self._limits = Service(RemoteLanguageModel(language_model), RemoteRenderer(renderer)), limits
        self._jobs = JobRunner(JobStore(jobs, limits.jobs_keep_s), self._service, limits)

    def __serve_build_asgi_app__(self) -> FastAPI:
        self._api = make_api(self._service, self._limits, self._keys, self._jobs, tell_id=False)
        return self._api

    async def end(self) -> None:
        """Before the application is deleted: see `make_api`."""
        await self._api.state.end()


def listening_host() -> str:
    """The address that Serve's HTTP proxies listen on."""
    from ray.serve.context import _get_global_client

    return str(_get_global_client().http_config.host)


class Arguments(BaseModel):
    """`serve run serve.app:build NAME=VALUE ...`"""

    model_config = ConfigDict(extra="forbid")

    bundle: str = Field(default_factory=shipped_bundle, description="folder or URI of a bundle")
    replicas: int = Field(1, ge=1, description="language models, each with a copy of the first stage")
    renderers: int = Field(1, ge=1, description="renderers, each with a copy of the second stage")
    cpus: float = Field(1, gt=0, description="CPU cores reserved for each language model and each renderer")
    gpus: float = Field(0, ge=0, description="GPUs reserved for each language model and each renderer")
    slots: int = Field(8, ge=1, description="clips that a language model writes at a time")
    waiting: int = Field(32, ge=0, description="clips that may wait for it; more are refused with 429")
    compiled: bool = Field(False, description="compile the language model's step; needs a C++ compiler")
    deterministic: bool = Field(
        False, description="give a seed the same bits in any company, on one core; slower for few clips"
    )
    keys: str | None = Field(None, description="file of API keys, one per line; else SSMTTM_API_KEYS")
    jobs: str = Field("runs/serve", description="local folder of jobs and their files")
    limits: Limits = Field(Limits(), description="on the command line: as JSON")

    @field_validator("limits", mode="before")
    @classmethod
    def _limits_of_the_command_line(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


def build(args: Arguments) -> ray_serve.Application:
    """The application graph. Relative paths are taken from the folder that this runs in.

    Raises:
        UserError: if there is no bundle, or the keys are unfit.
    """
    bundle = storage.absolute(args.bundle)
    check_bundle(bundle)
    keys = None if args.keys is None else storage.absolute(args.keys)
    Keys.read(keys)  # a mistake in them is told here, before anything is started
    # Where this process starts Ray; elsewhere it belongs into the environment of `ray start`.
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve.pace:middlewares")
    clips, grace_s = args.slots + args.waiting, args.limits.grace_s + 5
    resources = {"num_cpus": args.cpus, "num_gpus": args.gpus}
    language_model = ray_serve.deployment(LanguageModel, name="LanguageModel").options(
        num_replicas=args.replicas,
        # One more than it takes, so that it refuses by itself what is too much.
        max_ongoing_requests=clips + 16,
        graceful_shutdown_timeout_s=grace_s,
        ray_actor_options=resources,
    )
    renderer = ray_serve.deployment(RendererReplica, name="Renderer").options(
        num_replicas=args.renderers,
        max_ongoing_requests=clips + 16,
        graceful_shutdown_timeout_s=grace_s,
        ray_actor_options=resources,
    )
    api = ray_serve.deployment(ray_serve.ingress()(MusicAPI)).options(
        max_ongoing_requests=1000,  # its own limits answer better than Serve's
        graceful_shutdown_timeout_s=grace_s,
        ray_actor_options={"num_cpus": 0},  # it only waits for the others: two cores must do for all three
    )
    models = language_model.bind(bundle, args.slots, args.waiting, args.compiled, args.deterministic)
    renderers = renderer.bind(bundle, models, clips, args.deterministic)
    return api.bind(models, renderers, args.limits, keys, storage.absolute(args.jobs))
