"""The deployments: in process, and once over real HTTP."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
import yaml
from ray import serve as ray_serve
from ray.serve.schema import ServeDeploySchema

from serve.app import Arguments, RemoteService, build
from serve.schema import MusicRequest
from ssmttm import audio, storage
from ssmttm.errors import UserError
from ssmttm.generation.bundle import read_model_id
from ssmttm.generation.generator import Generator

ROOT = Path(__file__).parents[2]
REQUEST = {"prompt": "calm piano in a minor key, slow", "seconds": 1.0, "seed": 1}


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle at"):
        build(Arguments(bundle=str(tmp_path)))
    with pytest.raises(ValueError, match="Extra inputs"):
        Arguments.model_validate({"bundel": "x"})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Arguments(replicas=0)


def test_ray_parses_the_arguments_of_build() -> None:
    # Ray passes plain dictionaries to builders whose annotation is not a pydantic class itself, such as a string.
    assert build.__annotations__["args"] is Arguments


def test_the_committed_configuration_is_valid() -> None:
    values = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(values)
    (application,) = schema.applications
    Arguments.model_validate(application.args)
    assert application.import_path == "serve.app:build"
    assert {deployment.name for deployment in application.deployments} <= {"MusicGenerator", "MusicAPI"}


@pytest.fixture(scope="module")
def service(bundle_uri: str) -> RemoteService:
    """The generator's deployment, running in this process."""
    application = build(Arguments(bundle=bundle_uri))
    generator = application._bound_deployment.init_args[0]
    return RemoteService(ray_serve.run(generator, _local_testing_mode=True))


def run(*calls: Any) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*calls)

    return asyncio.run(gather())


def test_the_generator_describes_itself(service: RemoteService, bundle_uri: str) -> None:
    (model,) = run(service.describe())
    assert model.id == read_model_id(bundle_uri)
    assert model.sample_rate == 24_000
    assert model.defaults["steps"] == 2


def test_clips_are_those_of_the_library(service: RemoteService, bundle_uri: str, tmp_path: Path) -> None:
    (clip,) = run(service.create(MusicRequest(**REQUEST)))
    generator = Generator.load(bundle_uri)
    expected = generator.generate(REQUEST["prompt"], 1.0, seed=1)
    assert clip.data == generator.to_bytes(expected, "wav", REQUEST["prompt"], 1)
    assert (clip.seed, clip.seconds) == (1, 1.0)


def test_a_seed_is_drawn_and_told(service: RemoteService) -> None:
    first, second = run(*(service.create(MusicRequest(**{**REQUEST, "seed": None})) for _ in range(2)))
    assert first.seed != second.seed
    (again,) = run(service.create(MusicRequest(**{**REQUEST, "seed": first.seed})))
    assert again.data == first.data


def test_limits_of_the_model_come_back_as_one_line(service: RemoteService) -> None:
    long, wordy = run(
        service.create(MusicRequest(**{**REQUEST, "seconds": 10_000})),
        service.create(MusicRequest(**{**REQUEST, "prompt": "x" * 2000})),
    )
    assert long.error.startswith("seconds is 10000")
    assert "2000 characters" in wordy.error


@pytest.mark.slow
def test_over_http(ray_cluster: dict[str, Any], bundle_uri: str, tmp_path: Path) -> None:
    port = 18_231
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        ray_serve.run(build(Arguments(bundle=bundle_uri, cpus=0.5)), name="test", route_prefix="/")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            answers = [client.post("/v1/music/generations", json=REQUEST) for _ in range(2)]
            assert answers[0].status_code == 200
            assert answers[0].content == answers[1].content
            assert answers[0].headers["x-seed"] == "1"
            samples, rate = soundfile.read(io.BytesIO(answers[0].content))
            assert (len(samples), rate) == (24_000, 24_000)
            storage.write_bytes(str(tmp_path / "a.wav"), answers[0].content)
            assert audio.read_metadata(str(tmp_path / "a.wav"))["ai_generated"] is True
            assert client.post("/v1/music/generations", json={"prompt": " ", "seconds": 1}).status_code == 400
            assert client.post("/v1/music/generations", json={"seconds": 1}).status_code == 422
            assert client.get("/v1/models").json()["data"][0]["id"] == answers[0].headers["x-model"]
    finally:
        ray_serve.shutdown()
