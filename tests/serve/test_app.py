"""The deployments: their arguments and configuration, and once over real HTTP."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import soundfile
import yaml
from ray import serve as ray_serve
from ray.serve import context
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import HTTPOptions
from ray.serve.schema import ServeDeploySchema
from serving import free_port

from serve.app import Arguments, build, listening_host
from serve.remote import RemoteLanguageModel, RemoteRenderer
from serve.service import Service
from serve.wire import Began
from ssmttm import audio, storage
from ssmttm.bundle.load import shipped_bundle
from ssmttm.engine.generator import Generator
from ssmttm.engine.request import MusicRequest
from ssmttm.errors import UserError

ROOT = Path(__file__).parents[2]
REQUEST = {"prompt": "calm piano in a minor key, slow", "seconds": 1.0, "seed": 1}
DEPLOYMENTS = {"LanguageModel", "Renderer", "MusicAPI"}


def test_arguments_are_checked(tmp_path: Path, bundle_uri: str) -> None:
    with pytest.raises(UserError, match="no bundle at"):
        build(Arguments(bundle=str(tmp_path)))
    with pytest.raises(UserError, match="API keys"):
        build(Arguments(bundle=bundle_uri, keys=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="Extra inputs"):
        Arguments.model_validate({"bundel": "x"})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Arguments(replicas=0)
    assert Arguments().bundle == shipped_bundle()
    told = Arguments.model_validate({"limits": '{"burst": 3}'})  # as the command line gives it
    assert told.limits.burst == 3
    with pytest.raises(ValueError, match="Extra inputs"):
        Arguments.model_validate({"limits": '{"brust": 3}'})


def test_ray_parses_the_arguments_of_build() -> None:
    # Ray passes plain dictionaries to builders whose annotation is not a pydantic class itself, such as a string.
    assert build.__annotations__["args"] is Arguments


def test_the_listening_host_is_asked_of_rays_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has no public way to it. With another version, see whether it has one now, or whether this one is left."""
    assert ray.__version__ == "2.60.0"
    monkeypatch.setattr(ServeControllerClient, "__init__", lambda self, config: setattr(self, "_http_config", config))
    monkeypatch.setattr(context, "_get_global_client", lambda: ServeControllerClient(HTTPOptions(host="10.0.0.1")))
    assert listening_host() == "10.0.0.1"


def test_the_committed_configuration_is_valid() -> None:
    values = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(values)
    (application,) = schema.applications
    arguments = Arguments.model_validate(application.args)
    assert application.import_path == "serve.app:build"
    deployments = {deployment.name: deployment for deployment in application.deployments}
    assert set(deployments) == DEPLOYMENTS
    for name in ("LanguageModel", "Renderer"):
        scaling = deployments[name].autoscaling_config
        assert scaling["max_replicas"] > scaling["min_replicas"] >= 1
        assert 0 < scaling["target_ongoing_requests"] <= arguments.slots + arguments.waiting


def test_the_application_is_made_of_three_parts(bundle_uri: str, tmp_path: Path) -> None:
    application = build(Arguments(bundle=bundle_uri, slots=2, waiting=3, cpus=2, gpus=1, jobs=str(tmp_path)))
    api = application._bound_deployment
    models, renderer = (part._bound_deployment for part in api.init_args[:2])
    assert {part.name for part in (api, models, renderer)} == DEPLOYMENTS
    assert models.init_args == (bundle_uri, 2, 3, False, False)
    assert models.ray_actor_options["num_gpus"] == renderer.ray_actor_options["num_gpus"] == 1
    assert models.max_ongoing_requests > 5


def test_the_parts_speak_over_handles(bundle_uri: str, tmp_path: Path) -> None:
    """The deployments in this process, behind Serve's own handles."""
    application = build(Arguments(bundle=bundle_uri, jobs=str(tmp_path)))
    renderer = ray_serve.run(application._bound_deployment.init_args[1], _local_testing_mode=True)
    models = ray_serve.run(application._bound_deployment.init_args[0], name="models", _local_testing_mode=True)
    service = Service(RemoteLanguageModel(models), RemoteRenderer(renderer))

    async def go() -> None:
        events = [event async for event in service.stream(MusicRequest("calm piano", 2.0, 1))]
        assert events[0] == Began(48_000, 24_000)
        samples = np.concatenate(events[1:])
        expected = Generator.load(bundle_uri).generate("calm piano", 2.0, seed=1).samples[0]
        assert np.abs(samples - expected).max() < 1e-3
        (refusal,) = [event async for event in service.stream(MusicRequest(" ", 1.0, 1))]
        assert refusal == await service.check(MusicRequest(" ", 1.0, 1))
        assert (await service.describe()).sample_rate == 24_000
        (counters,) = await service.counters()
        assert counters["slots"] == 8

    asyncio.run(go())


@pytest.mark.slow
def test_over_http(ray_cluster: dict[str, Any], bundle_uri: str, tmp_path: Path) -> None:
    port = free_port()
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        arguments = Arguments(bundle=bundle_uri, cpus=0.3, jobs=str(tmp_path / "jobs"))
        ray_serve.run(build(arguments), name="test", route_prefix="/")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            assert client.get("/readyz").json() == {"status": "ok"}
            answer = client.post("/v1/music/generations", json=REQUEST)
            assert answer.status_code == 200
            assert answer.headers["x-seed"] == "1"
            assert len(answer.headers.get_list("x-request-id")) == 1
            samples, rate = soundfile.read(io.BytesIO(answer.content))
            assert (len(samples), rate) == (24_000, 24_000)
            storage.write_bytes(str(tmp_path / "a.wav"), answer.content)
            assert audio.read_metadata(str(tmp_path / "a.wav"))["ai_generated"] is True
            with client.stream("POST", "/v1/music/generations", json={**REQUEST, "stream": True}) as stream:
                assert stream.headers["transfer-encoding"] == "chunked"
                streamed, _ = soundfile.read(io.BytesIO(stream.read()))
                assert np.array_equal(streamed, samples)
            files = {"audio": ("a.wav", answer.content)}
            longer = client.post("/v1/music/extensions", data={"prompt": "go on", "seconds": "1"}, files=files)
            assert longer.status_code == 200
            assert client.post("/v1/music/generations", json={"prompt": " ", "seconds": 1}).status_code == 400
            assert client.post("/v1/music/generations", json={"seconds": 1}).status_code == 422
            assert client.get("/v1/models").json()["data"][0]["id"] == answer.headers["x-model"]
            assert "ssmttm_engine_slots 8.0" in client.get("/metrics").text
            job = client.post("/v1/music/jobs", json=REQUEST).json()["id"]
            events = client.get(f"/v1/music/jobs/{job}/events").text
            assert '"state":"done"' in events
            assert client.get(f"/v1/music/jobs/{job}/result").status_code == 200
    finally:
        ray_serve.shutdown()
