"""Thousands of requests that the OpenAPI document suggests, good and bad, and some that nothing suggests: every answer
is one that is foreseen."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from serving import BASE, FakeService
from starlette.types import Receive, Scope, Send

from serve.api import make_api
from serve.job_runner import JobRunner
from serve.jobs import JobStore
from serve.limits import Limits
from serve.wire import Event
from ssmttm.engine.request import MusicRequest

pytestmark = pytest.mark.slow

CASES = 350  # per operation and kind; 5,000 and more in all


class Brief(FakeService):
    """Whatever length is asked for, it makes little."""

    async def stream(self, request: MusicRequest) -> AsyncGenerator[Event]:
        async for event in super().stream(
            replace(request, seconds=0.01, bars=None) if request.seconds <= 60 else request
        ):
            yield event


@pytest.mark.timeout(1800)
def test_every_answer_is_foreseen(tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra: dev)")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import checks

    limits = Limits(per_minute=1e9, burst=10**9, jobs_queued=10**6)
    service = Brief()
    store = JobStore(str(tmp_path), limits.jobs_keep_s)
    api = make_api(service, limits, jobs=JobRunner(store, service, limits))

    async def from_here(scope: Scope, receive: Receive, send: Send) -> None:
        scope["client"] = ("127.0.0.1", 1)  # the test's client has a name of its own, which is turned away
        await api(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", from_here, headers={"Host": "127.0.0.1"})
    # Bad input must be refused; good input may be, as only the model knows all of its limits.
    kept = [
        checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
        schemathesis.specs.openapi.checks.negative_data_rejection,
    ]
    count, seen = 0, set()
    quiet = settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in (result.ok() for result in schema.get_all_operations()):
        modes = schemathesis.GenerationMode
        for mode in (modes.POSITIVE, modes.NEGATIVE):

            @quiet
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case) -> None:  # type: ignore[no-untyped-def]
                nonlocal count
                answer = case.call(base_url=BASE)
                # What is over the cap is refused before anyone can say what is wrong with it.
                case.validate_response(answer, checks=kept[:-1] if answer.status_code == 413 else kept)
                count += 1
                seen.add((case.method, case.path, answer.status_code))

            with suppress(Unsatisfiable):  # where nothing is sent, nothing can be wrong
                one()
    store.close()
    print(count, "requests:", sorted(seen, key=str))  # shown with pytest -rP
    assert count >= 5000
    assert {status for *_, status in seen} >= {200, 202, 400, 404, 422}


@pytest.mark.timeout(300)
def test_bent_requests_are_answered(bundle_uri: str, tmp_path: Path) -> None:
    """A part of what `python tests/soak/http_requests.py --count 5000` asks, of real models."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "soak"))
    from http_requests import run

    statuses, wrong = asyncio.run(run(bundle_uri, str(tmp_path), count=300, seed=3))
    assert not wrong, "\n".join(wrong)
    assert set(statuses) >= {200, 202, 400, 404, 405, 415, 421, 422}
