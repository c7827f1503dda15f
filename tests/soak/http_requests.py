"""Requests of every odd kind to the service, by the thousand: `python tests/soak/http_requests.py --count 5000`.

Each begins as a good one; then some of its parts are bent: bodies, fields, encodings, audio, headers, ranges, methods,
paths, and how they arrive. Whatever comes in, every answer is whole, none is a failure of the service's own, what is
refused says why in one line of JSON, and no place stays taken. One seed gives the same requests again.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "serve")]

from serve.api import make_api  # noqa: E402
from serve.job_runner import JobRunner  # noqa: E402
from serve.jobs import JobStore  # noqa: E402
from serve.language_model import LanguageModel  # noqa: E402
from serve.limits import Limits  # noqa: E402
from serve.renderer import Renderer  # noqa: E402
from serve.service import Service  # noqa: E402

GENERATIONS, EXTENSIONS, JOBS = "/v1/music/generations", "/v1/music/extensions", "/v1/music/jobs"
PATIENCE_S = 60.0
WORDS = [
    "calm piano",
    "x",
    "ゆっくり",
    "👩\u200d🎤",
    "a\nb",
    "=cmd|' /C calc'!A0",
    "<script>",
    "'; DROP TABLE jobs; --",
    "%00",
]
HIDDEN = [
    "",
    " ",
    "\0",
    "a\0b",
    "\u200b",
    "\ufeff",
    "\u3164",
    "\u2800",
    "\x1b[2J",
    "\x85",
    "\ud800",
    "\udfff",
    "\u202e",
    "\ufffe",
]
NUMBERS = [
    0,
    -0.0,
    1,
    -1,
    0.5,
    1e-307,
    5e-324,
    1e-45,
    2.2250738585072014e-308,
    1e-7,
    0.01,
    1e308,
    -1e308,
    1e15,
    2**31,
    2**53,
]
NUMBERS += [
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    10**400,
    1e999,
    float("nan"),
    float("-inf"),
    0.1 + 0.2,
    61,
    3600,
    86_401,
]
THINGS: list[Any] = [
    None,
    True,
    False,
    [],
    {},
    [1],
    {"a": 1},
    [[[]]],
    "",
    "1",
    "null",
    "NaN",
    "1e3",
    "0x10",
    "١٢",
    "ｘ" * 50,
]
CONTROLS: list[Any] = [
    {},
    {"key": "A minor"},
    {"tempo": 120},
    {"\ud800": 1},
    {"a": float("nan")},
    {"x" * 300: {}},
    {"key": None},
]
FIELDS = ["prompt", "seconds", "seed", "guidance", "temperature", "top_k", "top_p", "steps", "controls", "format"]
FIELDS += ["variations", "stream", "answer"]
GOOD: dict[str, list[Any]] = {
    "prompt": WORDS[:5],
    "seconds": [0.01, 0.1, 0.3, 1e-9, 1],
    "seed": [0, 7, 2**63 - 1],
    "guidance": [0, 1, 2.5, 20, 5e-324],
    "temperature": [0, 0.01, 1, 5],
    "top_k": [0, 1, 250, 100_000],
    "top_p": [1e-320, 0.5, 1],
    "steps": [1, 2],
    "controls": [{}],
    "format": ["wav", "flac", "ogg", "mp3"],
    "variations": [1, 2],
    "stream": [False, True],
    "answer": ["file", "json"],
}
HEADERS = {
    "range": [
        "bytes=0-3",
        "bytes=5-2",
        "bytes=-1",
        "bytes=999999999-",
        "bytes=",
        "bytes=a-b",
        "rows=1-2",
        "bytes=0-0,2-3",
        "bytes=" + ",".join(f"{n}-" for n in range(200)),
        "bytes=-99999999999999999999",
        "bytes=١-٢",
        "x" * 500,
        "",
        "ÿ",
    ],
    "if-range": ['"etag"', "W/x", "Wed, 21 Oct 2015 07:28:00 GMT", "\xe9"],
    "content-length": ["0", "-1", "1e3", "99999999999999999999999", "٣", "", "5, 5"],
    "content-encoding": ["gzip", "br", "identity", "x"],
    "transfer-encoding": ["chunked", "gzip"],
    "expect": ["100-continue", "nothing"],
    "accept": ["application/json", "image/png", "*/*;q=nan", ""],
    "accept-encoding": ["gzip", "\xff"],
    "origin": ["http://127.0.0.1", "https://evil.example", "null", "", "\xe9://"],
    "host": ["127.0.0.1", "localhost:8000", "[::1]", "[", "evil.example", "", "127.0.0.1:99999999", "\xff"],
    "x-forwarded-for": ["192.0.2.7", "127.0.0.1", "a" * 300, "\xff", ","],
    "x-request-id": ["mine", "a b", "x" * 65, "\xe9", "\x7f"],
    "authorization": ["Bearer ", "Bearer x", "Basic eDp4", "\xff" * 40, "Bearer " + "k" * 20_000],
    "cookie": ["a=b", "x" * 40_000],
    "connection": ["close", "upgrade"],
    "upgrade": ["websocket", "h2c"],
    "x-request-timeout-seconds": ["-1", "nan", "0"],
}
TYPES = [
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "",
    "application/json; charset=utf-16",
]
TYPES += [
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=" + "x" * 300,
    "application/xml",
    "\xff/\xfe",
    ";;;",
    "a" * 500,
]
METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "POST ",
    "",
    "X" * 100,
    "PROPFIND",
]
PATHS = [
    "/",
    "//",
    "/v1",
    "/v1/models",
    "/v1/models/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/none",
]
PATHS += [
    "/../etc/passwd",
    "/v1/music/jobs/..",
    "/v1/music/jobs/%2e%2e/result",
    "/\0",
    "/é",
    "/" + "x" * 9000,
    "/v1/music/jobs/" + "g" * 32,
]
QUERIES = ["", "a=1", "seconds=5", "%zz", "&&&", "x" * 3000, "a=%00", "é"]


@dataclass(frozen=True)
class Case:
    """A request as a server hands it on. leaves: after so many events of its body the caller is gone."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    query: str = ""
    cut: int = 0
    leaves: int | None = None


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False


def sound(random: random.Random) -> bytes:
    """A file of some audio, or nearly."""
    rate, channels = random.choice([8_000, 24_000, 44_100, 192_000, 4_000]), random.choice([1, 1, 2, 8, 9])
    seconds = random.choice([0, 0.001, 0.1, 0.5, 1.0])
    samples = np.random.default_rng(random.getrandbits(32)).normal(
        0, random.choice([0, 0.1, 3]), (round(seconds * rate), channels)
    )
    samples = samples.astype(np.float32)
    if len(samples) and random.random() < 0.1:
        samples[0] = random.choice([np.nan, np.inf, 1e38])
    kinds = [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
    ]
    container, subtype = random.choice(kinds)
    if not (np.abs(samples) < 1e6).all():  # encoders lose their way
        container, subtype = "WAV", "FLOAT"
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, samples, rate, subtype, format=container)
    except (soundfile.LibsndfileError, ValueError):  # no such rate or number of channels in it
        buffer = io.BytesIO()
        soundfile.write(buffer, samples[:, :1], 24_000, "PCM_16", format="WAV")
    return buffer.getvalue()


def bent(random: random.Random, data: bytes) -> bytes:
    """Some bytes of it changed, lost, doubled or put in."""
    kept = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        place = random.randrange(len(kept) + 1)
        kind = random.randrange(5)
        if kind == 0 and place < len(kept):
            kept[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            del kept[place : place + random.choice([1, 4, len(kept)])]
        elif kind == 2:
            kept[place:place] = random.randbytes(random.choice([1, 4, 60]))
        elif kind == 3:
            kept[place:place] = kept[: random.choice([1, 50])]
        else:
            kept[place : place + 4] = random.choice([b"\0" * 4, b"\xff" * 4, b"\r\n\r\n", b"\xf0\x7f\xff\xff"])
    return bytes(kept)


def form(random: random.Random) -> dict[str, Any]:
    """Good fields, some of which are no longer good."""
    names = [name for name in FIELDS[2:] if random.random() < 0.15]
    fields = {name: random.choice(GOOD[name]) for name in ["prompt", "seconds", *names]}
    while random.random() < 0.5:
        name = random.choice([*FIELDS, "tempo", "\0", "\ud800", "__proto__", "x" * 100])
        kind = random.randrange(6)
        if kind == 0:
            fields.pop(name, None)
        elif kind == 1:
            fields[name] = random.choice(HIDDEN) + random.choice(["", "a"])
        elif kind == 2:
            fields[name] = random.choice(CONTROLS)
        elif kind == 3:
            fields[name] = random.choice(THINGS)
        else:
            fields[name] = random.choice(NUMBERS)
    return fields


def text(random: random.Random, fields: Any) -> bytes:
    """It as JSON, or nearly."""
    data = json.dumps(fields, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
    kind = random.randrange(14)
    if kind == 0:
        return data.decode(errors="replace").encode(random.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7"]))
    if kind == 1:
        return bent(random, data)
    if kind == 2:
        odd = [
            b"",
            b"null",
            b"[]",
            b"{",
            b"[" * 20_000,
            b'{"a":' * 9_000,
            b"1" * 6_000,
            b'"' + b"\\u0000" * 9 + b'"',
            b"\xff\xfe",
            b"{}" * 9,
        ]
        return random.choice(odd)
    if kind == 3:
        return data[:-1] + b', "prompt": "twice"}'
    return data


def parts(random: random.Random, fields: dict[str, Any]) -> tuple[str, bytes]:
    """A form with a file, or nearly: its Content-Type, and the body."""
    edge = random.choice(["edge", "x" * 70, "-"])
    pieces = []
    for name, value in fields.items():
        told = value if isinstance(value, str) else json.dumps(value)
        pieces.append((f'name="{name}"', told.encode(errors="surrogatepass")))
    audio = sound(random)
    if random.random() < 0.3:
        audio = bent(random, audio)
    names = [
        'name="audio"; filename="a.wav"',
        'name="audio"',
        'name="audio"; filename=""',
        'name="audio"; filename="../\0"',
        'name="other"; filename="a"',
    ]
    pieces.insert(random.randrange(len(pieces) + 1), (random.choices(names, [20, 1, 1, 1, 1])[0], audio))
    if random.random() < 0.05:
        pieces *= random.choice([2, 30])
    body = b"".join(
        f"--{edge}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode(errors="surrogatepass") + data + b"\r\n"
        for name, data in pieces
    )
    body += f"--{edge}--\r\n".encode()
    if random.random() < 0.1:
        body = bent(random, body)
    return f"multipart/form-data; boundary={edge}", body


def made(random: random.Random, jobs: list[str]) -> Case:
    """One request.

    Args:
        jobs: paths of those that were begun.
    """
    headers = [("host", "127.0.0.1")]
    kind = random.random()
    if kind < 0.45:
        fields = form(random)
        path = random.choice([GENERATIONS, GENERATIONS, JOBS])
        if path == JOBS:
            fields = {name: value for name, value in fields.items() if name not in ("variations", "stream", "answer")}
        case = Case("POST", path, (*headers, ("content-type", "application/json")), text(random, fields))
    elif kind < 0.65:
        kept, body = parts(random, form(random))
        case = Case("POST", EXTENSIONS, (*headers, ("content-type", kept)), body)
    elif kind < 0.85 and jobs:
        path = random.choice(jobs[-20:]) + random.choice(["", "/result", "/result", "/provenance", "/events", "/none"])
        case = Case(random.choice(["GET", "GET", "HEAD", "DELETE"]), path, tuple(headers))
        if random.random() < 0.6:
            case = replace(case, headers=(*case.headers, ("range", random.choice(HEADERS["range"]))))
    else:
        case = Case(random.choice(["GET", "HEAD"]), random.choice(PATHS), tuple(headers))
    while random.random() < 0.3:
        case = _bend(random, case)
    return replace(case, cut=random.choice([0, 0, 1, 7, 1000]), leaves=random.choice([None] * 12 + [0, 1, 2]))


def _bend(random: random.Random, case: Case) -> Case:
    kind = random.randrange(7)
    if kind == 0:
        return replace(case, method=random.choice(METHODS))
    if kind == 1:
        return replace(case, path=random.choice([case.path + "/", case.path.upper(), "/" + case.path, *PATHS]))
    if kind == 2:
        return replace(case, query=random.choice(QUERIES))
    if kind == 3:
        kept = [pair for pair in case.headers if pair[0] != "content-type"]
        return replace(case, headers=(*kept, ("content-type", random.choice(TYPES))))
    if kind == 4:
        return replace(case, headers=case.headers[random.randrange(2) :])
    name = random.choice(list(HEADERS))
    kept = [pair for pair in case.headers if pair[0] != name or name == "cookie"]
    return replace(case, headers=(*kept, (name, random.choice(HEADERS[name]))))


async def ask(api: Callable[..., Any], case: Case) -> Answer:
    """The answer to a request, as a server would get it."""
    answer, gone = Answer(), asyncio.Event()
    size = max(len(case.body) // case.cut, 1) if case.cut else len(case.body) or 1
    chunks = [case.body[begin : begin + size] for begin in range(0, len(case.body), size)] or [b""]
    if case.leaves is not None:
        chunks = chunks[: case.leaves]
    messages = [
        {"type": "http.request", "body": chunk, "more_body": case.leaves is not None or number < len(chunks) - 1}
        for number, chunk in enumerate(chunks)
    ][::-1]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if messages:
            return messages.pop()
        if case.leaves is None:
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            assert not answer.status, "two answers"
            answer.status = message["status"]
            answer.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]
            }
        else:
            assert answer.status, "a body before its status"
            assert not answer.is_whole, "more after the end"
            answer.body += message.get("body", b"")
            answer.is_whole = not message.get("more_body", False)

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http"}
    scope |= {"method": case.method, "path": case.path, "raw_path": case.path.encode(errors="replace"), "root_path": ""}
    scope |= {
        "query_string": case.query.encode(errors="replace"),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    scope["headers"] = [(name.encode(), value.encode("latin-1", "replace")) for name, value in case.headers]
    try:
        async with asyncio.timeout(PATIENCE_S):
            await api(scope, receive, send)
    finally:
        gone.set()
    return answer


def wrong_with(case: Case, answer: Answer) -> str | None:
    """What no answer may be; None if it is well."""
    if case.leaves is not None and not answer.is_whole:
        return None  # nobody was there
    if not answer.is_whole:
        return "it has no end"
    if answer.status >= 500:
        return f"status {answer.status}"
    for name, value in answer.headers.items():
        if any(ord(one) < 32 for one in name + value):
            return f"the header {name} holds control characters"
    if case.method == "HEAD":
        return "HEAD has a body" if answer.body else None
    if answer.status >= 400 and answer.status != 499:
        try:
            (said,) = json.loads(answer.body).items()
        except ValueError:
            return f"status {answer.status} is not told in JSON"
        if said[0] != "error" or not said[1] or len(said[1]) > 800 or len(said[1].splitlines()) != 1:
            return f"{said} is not one line"
    if answer.status == 200 and answer.headers.get("content-type", "").startswith("audio/") and not answer.body:
        return "no audio"
    return None


async def run(bundle: str, folder: str, count: int, seed: int, at_once: int = 8) -> tuple[Counter[int], list[str]]:
    """Ask so many times, some at once. Returns how many of each status there were, and what was wrong."""
    limits = Limits(per_minute=1e9, burst=10**9, jobs_queued=20, jobs_running=1, body_bytes=65_536, upload_bytes=2**21)
    language_model = LanguageModel(bundle, slots=4)
    renderer = Renderer(bundle, language_model, 12)
    store = JobStore(folder, limits.jobs_keep_s)
    service = Service(language_model, renderer)
    api = make_api(service, limits, jobs=JobRunner(store, service, limits))
    drawn, jobs, statuses, wrong = random.Random(seed), [], Counter[int](), []

    async def one(number: int) -> None:
        case = made(random.Random(drawn.getrandbits(64)), jobs)
        try:
            answer = await ask(api, case)
            problem = wrong_with(case, answer)
        except Exception as error:
            answer, problem = Answer(), f"{type(error).__name__}: {error}"
        statuses[answer.status] += 1
        if answer.status == 202 and (job := answer.headers.get("location")):
            jobs.append(job)
        if problem:
            wrong.append(
                f"{number}: {problem}: {str(replace(case, body=case.body[:300]))[:900]} -> {answer.body[:200]!r}"
            )

    async def worker(numbers: Any) -> None:
        for number in numbers:
            await one(number)
            if number % 500 == 499:
                print(f"{number + 1} requests, {len(wrong)} answered wrongly", flush=True)

    async with api.router.lifespan_context(api):
        numbers = iter(range(count))
        await asyncio.gather(*(worker(numbers) for _ in range(at_once)))
        after = await ask(api, Case("GET", "/metrics", (("host", "127.0.0.1"),)))
        if b"ssmttm_in_flight 0.0" not in after.body:
            wrong.append("places stay taken")
        last = await ask(
            api,
            Case(
                "POST",
                GENERATIONS,
                (("host", "127.0.0.1"), ("content-type", "application/json")),
                b'{"prompt": "x", "seconds": 0.1}',
            ),
        )
        if last.status != 200:
            wrong.append(f"after all of them, a good request gets {last.status}")
    store.close()
    renderer.close()
    language_model.close()
    return statuses, wrong


def main() -> None:
    from tiny_bundle import write_tiny_bundle

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_tiny_bundle(folder)
        statuses, wrong = asyncio.run(run(bundle, f"{folder}/jobs", arguments.count, arguments.seed))
    print("\n".join(wrong))
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}; {len(wrong)} answered wrongly")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
