"""Two Ray Serve deployments, an HTTP ingress and the generator it calls; each scales by itself.

Start them with: serve run serve.app:build bundle=runs/demo/bundle
"""

# Not `from __future__ import annotations`: Ray needs the class itself in the annotation of `build`, not its name.

import asyncio
import time

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from serve.api import Clip, make_api
from serve.schema import Model, MusicRequest
from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.generation.bundle import check_bundle
from ssmttm.generation.generator import Generator
from ssmttm.generation.request import check_seed


@ray_serve.deployment
class MusicGenerator:
    """Holds a bundle. Clips are made one after another, off the event loop, so health checks are always answered."""

    def __init__(self, bundle: str):
        self._generator = Generator.load(bundle)
        self._turn = asyncio.Semaphore(1)

    async def describe(self) -> Model:
        config = self._generator.config
        return Model(
            id=self._generator.model_id,
            sample_rate=self._generator.sample_rate,
            max_seconds=config.max_seconds,
            max_prompt_chars=config.max_prompt_chars,
            defaults=config.model_dump(include={"guidance", "temperature", "top_k", "steps"}),
        )

    async def create(self, request: MusicRequest) -> Clip:
        async with self._turn:
            return await asyncio.to_thread(self._create, request)

    def _create(self, request: MusicRequest) -> Clip:
        start = time.perf_counter()
        try:
            seed = check_seed(request.seed)
            audio = self._generator.generate(**request.model_dump(exclude={"format", "seed"}), seed=seed)
        except UserError as error:  # answered as a value: exceptions lose their type between processes
            return Clip(error=str(error))
        data = self._generator.to_bytes(audio, request.format, request.prompt, seed)
        return Clip(data, seed, audio.seconds, time.perf_counter() - start)


class RemoteService:
    """`Service` over the generator's deployment. The model is asked for once: replicas of one bundle agree."""

    def __init__(self, generator: DeploymentHandle):
        self._generator = generator
        self._model: Model | None = None

    async def describe(self) -> Model:
        if self._model is None:
            self._model = await self._generator.describe.remote()
        return self._model

    async def create(self, request: MusicRequest) -> Clip:
        return await self._generator.create.remote(request)


@ray_serve.deployment
@ray_serve.ingress()
class MusicAPI:
    """Checks requests, forwards them, and answers with audio."""

    def __init__(self, generator: DeploymentHandle):
        self._service = RemoteService(generator)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_api(self._service)


class Arguments(BaseModel):
    """`serve run serve.app:build NAME=VALUE ...`"""

    model_config = ConfigDict(extra="forbid")

    bundle: str = Field("runs/demo/bundle", description="folder or URI of a bundle")
    replicas: int = Field(1, ge=1, description="generators, each with a copy of the model")
    cpus: float = Field(1, gt=0, description="CPU cores reserved for each generator")
    gpus: float = Field(0, ge=0, description="GPUs reserved for each generator")
    max_queued: int = Field(32, ge=1, description="requests that may be in flight; more are refused with 503")


def build(args: Arguments) -> ray_serve.Application:
    """The application graph. A relative bundle path is taken from the folder that this runs in.

    Raises:
        UserError: if there is no bundle.
    """
    bundle = storage.absolute(args.bundle)
    check_bundle(bundle)
    generator = MusicGenerator.options(
        num_replicas=args.replicas,
        max_ongoing_requests=args.max_queued,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
    ).bind(bundle)
    # The ingress only waits for the generator, so a fraction of a core does for many requests.
    return MusicAPI.options(
        max_ongoing_requests=args.max_queued, max_queued_requests=args.max_queued, ray_actor_options={"num_cpus": 0.1}
    ).bind(generator)
