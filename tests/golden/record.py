"""What the project gives for fixed requests: clips through every door, losses of training, rows of token shards.

    python tests/golden/record.py                 write record.json and fixtures/
    python tests/golden/record.py --check         compare with them; exit code 1 if anything differs
    python tests/golden/record.py --ray [--check] training on two Ray workers besides

Equal means: the same codes and rows, samples within 1e-5, losses within 1e-6. Another processor adds in another order,
so a record holds for the machine that it names. Whatever can be asked for on a command line is asked for there; what is
imported is below, so that a move of modules touches nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch

GOLDEN = Path(__file__).parent
ROOT = GOLDEN.parent.parent
sys.path.insert(0, str(ROOT))

from serve.api import make_api  # noqa: E402
from serve.language_model import LanguageModel  # noqa: E402
from serve.renderer import Renderer  # noqa: E402
from serve.service import Service  # noqa: E402
from ssmttm.audio import Audio  # noqa: E402
from ssmttm.codec.mini import MiniCodec  # noqa: E402
from ssmttm.engine.generator import Generator  # noqa: E402

RECORD, FIXTURES = GOLDEN / "record.json", GOLDEN / "fixtures"
CORPUS = GOLDEN / "corpus"  # eight clips that the composer's first version wrote: what it writes now is its own affair
SHIPPED = str(ROOT / "ssmttm" / "weights" / "mini")
PLACEHOLDER = "@FIXTURES@"  # in files of the fixtures, for the folder that holds them

Figures = dict[str, Any]
EVERY = 97  # samples from one that is kept to the next
SAMPLES_WITHIN, FILE_WITHIN = 1e-5, 1e-5 + 2**-15  # a file's samples have 16 bits
LOSSES_WITHIN, NORMS_WITHIN = 1e-6, 1e-5  # relative; a gradient's norm adds up all parameters, in any order


def machine() -> dict[str, str]:
    """What the last bits of a result depend on."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in reversed(list(lines))}
        cpu = " ".join(fields.get(name, "") for name in ("vendor_id", "cpu family", "model"))
    capability = torch.backends.cpu.get_cpu_capability()
    return {"machine": platform.machine(), "capability": capability, "cpu": cpu, "torch": torch.__version__}


def run(*command: str, code: int = 0) -> None:
    """Run a command of the project in a process of its own."""
    process = start(*command)
    output = process.communicate()[0]
    if process.returncode != code:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")


def start(*command: str) -> subprocess.Popen[str]:
    if command[0] == "ssmttm":
        command = ("-c", "from ssmttm.cli import main; main()", *command[1:])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


# Clips

PROMPT, OTHER = "a driving techno track with a saw lead at 130 bpm", "calm solo piano, slow, in A minor"


@contextmanager
def overheard() -> Iterator[list[torch.Tensor]]:
    """The coarse latents [B, D, T] that any codec of this process decodes meanwhile, in their order."""
    heard, decode_chunk = [], MiniCodec.decode_chunk

    def listening(self: MiniCodec, coarse_BDT: torch.Tensor, *rest: Any, **named: Any) -> Any:
        heard.append(coarse_BDT.clone())
        return decode_chunk(self, coarse_BDT, *rest, **named)

    MiniCodec.decode_chunk = listening  # type: ignore[method-assign]
    try:
        yield heard
    finally:
        MiniCodec.decode_chunk = decode_chunk  # type: ignore[method-assign]


class Doors:
    """The packaged model (or another bundle) in process, loaded when first needed."""

    def __init__(self, bundle: str = SHIPPED):
        self.bundle = bundle
        self._generator: Generator | None = None
        self._parts: tuple[LanguageModel, Renderer] | None = None

    @property
    def generator(self) -> Generator:
        if self._generator is None:
            self._generator = Generator.load(self.bundle, "cpu")
        return self._generator

    def close(self) -> None:
        if self._parts is not None:
            for part in self._parts:
                part.close()

    def http(self, path: str, **arguments: Any) -> tuple[np.ndarray, Figures]:
        """Samples [1, N] of an answer's audio file, and codes."""
        if self._parts is None:
            model = LanguageModel(self.bundle, slots=2, waiting=2)
            self._parts = model, Renderer(self.bundle, model)
        api = make_api(Service(*self._parts))

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(app=api)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(f"/v1/music/{path}", timeout=600, **arguments)

        with overheard() as heard:
            answer = asyncio.run(call())
        assert answer.status_code == 200, answer.text
        return soundfile.read(io.BytesIO(answer.content), dtype="float32", always_2d=True)[0].T, self._codes(heard)

    def python(self, ask: Callable[[Generator], list[Audio]]) -> tuple[np.ndarray, Figures]:
        """Samples [B, N] of what is asked of the generator, one row for each clip, and codes."""
        generator = self.generator
        with overheard() as heard:
            clips = ask(generator)
        return np.concatenate([clip.samples for clip in clips]), self._codes(heard)

    def command_line(self, *arguments: str) -> tuple[np.ndarray, Figures]:
        """Samples [1, N] of the file that `ssmttm generate` writes."""
        with tempfile.TemporaryDirectory() as folder:
            run("ssmttm", "generate", *arguments, "--bundle", self.bundle, "--out", f"{folder}/clip.wav")
            return soundfile.read(f"{folder}/clip.wav", dtype="float32", always_2d=True)[0].T, {}

    def _codes(self, heard: list[torch.Tensor]) -> Figures:
        codec = self.generator.bundle.codec
        table_VD = codec.coarse(torch.arange(codec.codebook_size)[None])[0].T.contiguous().numpy()
        known = {row_D.tobytes(): code for code, row_D in enumerate(table_VD)}
        latents_BTD = torch.cat(heard, dim=2).mT.contiguous().numpy()
        return {"codes": [" ".join(str(known[one.tobytes()]) for one in clip_TD) for clip_TD in latents_BTD]}


def _stream(generator: Generator) -> list[Audio]:
    pieces = list(generator.stream(PROMPT, 4.0, 6))
    assert len(pieces) > 1
    return [Audio(np.concatenate([piece.samples for piece in pieces], axis=1), generator.sample_rate)]


def _extend(generator: Generator) -> list[Audio]:
    return [generator.extend(given_audio(generator.sample_rate), OTHER, 2.0, 9)]


def given_audio(sample_rate: int) -> Audio:
    """A second and a half of three bells, made of numbers alone."""
    time_N = np.arange(3 * sample_rate // 2) / sample_rate
    bells_N = sum(np.sin(2 * np.pi * pitch * time_N) for pitch in (220, 277.2, 329.6)) * np.exp(-3 * (time_N % 0.5))
    return Audio((0.2 * bells_N).astype(np.float32)[None], sample_rate)


def _upload(rate: int) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, given_audio(rate).samples[0], rate, "FLOAT", format="WAV")
    return data.getvalue()


CLIPS: dict[str, Callable[[Doors], tuple[np.ndarray, Figures]]] = {
    "generate": lambda doors: doors.python(lambda one: [one.generate(PROMPT, 2.0, 0)]),
    "generate, all settings": lambda doors: doors.python(
        lambda one: [one.generate(OTHER, 2.0, 5, guidance=4.0, temperature=1.1, top_k=50, steps=5, top_p=0.9)]
    ),
    "generate, greedy and unguided": lambda doors: doors.python(
        lambda one: [one.generate(OTHER, 1.5, 2, guidance=1.0, temperature=0.0)]
    ),
    "stream": lambda doors: doors.python(_stream),
    "batch": lambda doors: doors.python(
        lambda one: one.generate_batch([PROMPT, OTHER, "loud rock with drums"], 2.0, [1, 2, 3])
    ),
    "extend": lambda doors: doors.python(_extend),
    "http": lambda doors: doors.http("generations", json={"prompt": OTHER, "seconds": 2, "seed": 3}),
    "http, streamed": lambda doors: doors.http(
        "generations", json={"prompt": PROMPT, "seconds": 4, "seed": 6, "stream": True}
    ),
    "http, settings": lambda doors: doors.http(
        "generations",
        json={
            **{"prompt": PROMPT, "seconds": 1.5, "seed": 8, "guidance": 3.5, "temperature": 0.8},
            **{"top_k": 20, "top_p": 0.95, "steps": 4, "format": "flac"},
        },
    ),
    "http, extended": lambda doors: doors.http(
        "extensions",
        data={"prompt": OTHER, "seconds": "2", "seed": "9"},
        files={"audio": ("given.wav", _upload(doors.generator.sample_rate), "audio/wav")},
    ),
    "command line": lambda doors: doors.command_line(PROMPT, "--seconds", "3", "--seed", "1"),
    "command line, all options": lambda doors: doors.command_line(
        *(OTHER, "--seconds", "2", "--seed", "4", "--guidance", "3", "--temperature", "0.9", "--top-k", "100"),
        *("--top-p", "0.97", "--steps", "6", "--precision", "int8"),
    ),
}
QUICK = ("generate", "batch", "http, streamed", "extend")


def record_clips(names: Sequence[str], bundle: str = SHIPPED) -> Figures:
    doors, figures = Doors(bundle), {}
    try:
        for name in names:
            samples_BN, codes = CLIPS[name](doors)
            figures[name] = described(samples_BN) | codes
    finally:
        doors.close()
    return figures


def described(samples_BN: np.ndarray) -> Figures:
    """Shape, SHA-256 of the float32 samples, and each 97th of them."""
    samples_BN = np.ascontiguousarray(samples_BN, dtype="<f4")
    kept = base64.b64encode(samples_BN[:, ::EVERY].tobytes()).decode()
    return {
        "shape": list(samples_BN.shape),
        "sha256": hashlib.sha256(samples_BN.tobytes()).hexdigest(),
        "every_97th": kept,
    }


def samples_of(figures: Figures) -> np.ndarray:
    """Each 97th sample of a recorded clip, [B, N]."""
    kept = np.frombuffer(base64.b64decode(figures["every_97th"]), "<f4")
    return kept.reshape(figures["shape"][0], -1)


def compare_clips(recorded: Figures, now: Figures) -> list[str]:
    problems = []
    for name, figures in now.items():
        before = recorded[name]
        if figures["shape"] != before["shape"]:
            problems.append(f"{name}: shape {figures['shape']}, recorded {before['shape']}")
            continue
        if figures.get("codes") != before.get("codes"):
            problems.append(f"{name}: codes {figures.get('codes')}, recorded {before.get('codes')}")
        if figures["sha256"] == before["sha256"]:
            print(f"{name}: equal")
            continue
        apart = float(np.abs(samples_of(figures) - samples_of(before)).max())
        print(f"{name}: at most {apart:.1e} apart")
        if apart > (FILE_WITHIN if name.startswith(("http", "command")) else SAMPLES_WITHIN):
            problems.append(f"{name}: samples are {apart:.1e} apart")
    return problems


# Corpora and token shards


class Chain:
    """The corpus, a codec, token shards and runs of the tiny preset under one folder, all made from command lines."""

    def __init__(self, folder: str | Path, *overrides: str):
        self.folder, self._overrides = Path(folder), overrides

    def settings(self, *overrides: str) -> list[str]:
        paths = {"corpus.source": "corpus", "corpus.out": "tokens", "codec.path": "codec", "train.data": "tokens"}
        fixed = [f"{key}={self.folder / name}" for key, name in paths.items()]
        fixed += [f"train.out={self.folder / 'trained'}", "train.launch=local", "tracking.enabled=false"]
        return ["--preset", "tiny", *fixed, *self._overrides, *overrides]

    def make_tokens(self) -> None:
        shutil.copytree(CORPUS, self.folder / "corpus")
        run("jobs/train_codec.py", *self.settings())
        run("jobs/preprocess.py", *self.settings())

    def make_sidecar_tokens(self) -> None:
        write_sidecar_folder(self.folder / "folder")
        source = (f"corpus.source={self.folder / 'folder'}", f"corpus.out={self.folder / 'folder-tokens'}")
        run("jobs/preprocess.py", *self.settings(*source, "corpus.default_licence=own-work"))

    def train(self, stage: str, name: str, *overrides: str) -> Figures:
        """Rows of a finished run."""
        run(f"jobs/train_{stage}.py", *self.settings(f"train.name={name}", *overrides))
        return self.rows(name)

    def train_with_a_break(self, stage: str, name: str, *overrides: str) -> Figures:
        """The same of a run that is asked to stop on its way, and started again."""
        metrics = self.folder / "trained" / name / "metrics.jsonl"
        process = start(f"jobs/train_{stage}.py", *self.settings(f"train.name={name}", *overrides))
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 20):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output = process.communicate()[0]
        assert process.returncode == 143, f"stopped with {process.returncode}:\n{output}"
        return self.train(stage, name, *overrides)

    def rows(self, name: str) -> Figures:
        rows = {}
        for log in ("metrics", "validation"):
            lines = (self.folder / "trained" / name / f"{log}.jsonl").read_text().splitlines()
            rows[log] = [json.loads(line) for line in lines]
        steps = rows["metrics"]
        figures = {key: [row[key] for row in steps] for key in ("step", "loss", "grad_norm", "lr", "tokens")}
        validation = [{key: row[key] for key in sorted(row) if key != "seconds"} for row in rows["validation"]]
        return figures | {"validation": validation}


def write_sidecar_folder(folder: Path) -> None:
    """Two kinds of audio with the three kinds of sidecars, and a file that is none."""
    folder.mkdir()
    bells = given_audio(44_100).samples[0]
    soundfile.write(folder / "long.wav", np.tile(bells, 5)[:, None] * [1.0, 0.5], 44_100)
    soundfile.write(folder / "short.flac", np.tile(given_audio(24_000).samples[0], 2), 24_000)
    soundfile.write(folder / "plain.wav", np.tile(given_audio(22_050).samples[0], 3), 22_050)
    fields = {"title": "Bells", "artist": "Nobody", "licence": "CC0-1.0", "captions": ["three bells", "a slow chime"]}
    (folder / "long.json").write_text(json.dumps(fields))
    (folder / "short.txt").write_text("bells at night\na bright chord of bells\n")
    (folder / "plain.json").write_text(json.dumps({"description": "calm bells", "bpm": 120, "key": "A major"}))
    (folder / "broken.wav").write_bytes(b"not audio")
    (folder / "broken.txt").write_text("nothing\n")


def digest(value: Any) -> str:
    """SHA-256 of a value, bytes in it replaced by theirs."""

    def plain(part: Any) -> str:
        return hashlib.sha256(part).hexdigest()

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=plain).encode()).hexdigest()


def record_tokens(uri: Path) -> Figures:
    """Digests of a dataset's columns over all its rows, whatever file and library wrote them, and of its other files;
    `files`: of the parquet files themselves, which say nothing where they differ."""
    figures: Figures = {"columns": {}, "files": {}}
    for kind in ("shards", "text"):
        paths = sorted((uri / kind).glob("*.parquet"))
        rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
        for name in rows[0]:
            figures["columns"][f"{kind}.{name}"] = digest([row[name] for row in rows])
        figures["files"] |= {f"{kind}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        figures[f"{kind}_rows"] = len(rows)
    content = json.loads((uri / "dataset.json").read_text())
    counts = ("rows", "seconds", "captions", "rejects", "rejects_by_reason", "segments_planned", "seconds_planned")
    figures["dataset"] = {key: content[key] for key in counts if key in content}
    figures["codec"] = content["codec"]["fingerprint"]
    figures["text"] = content["text"]["fingerprint"].partition(".")[0]  # what earlier versions knew of the encoder
    figures["attribution"] = hashlib.sha256((uri / "ATTRIBUTION.csv").read_bytes()).hexdigest()
    return figures


def compare_tokens(recorded: Figures, now: Figures, name: str) -> list[str]:
    """What was recorded must be there; columns may have come."""
    problems = []
    for key, before in recorded.items():
        if key == "files" and isinstance(before, dict):
            changed = [file for file, value in before.items() if now[key].get(file) != value]
            print(f"{name}: other bytes in {', '.join(changed)}" if changed else f"{name}: files equal")
        elif key == "columns":
            problems += [f"{name}: {one} differs" for one, value in before.items() if now[key].get(one) != value]
        elif now[key] != before:
            problems.append(f"{name}: {key} is {now[key]}, recorded {before}")
    return problems


# Training

STEPS = ("train.steps=50", "train.checkpoint_every=10", "train.validate_every=25", "train.samples=0")
ON_RAY = ("train.launch=ray", "train.workers=2", "train.micro_batch=2")


def record_local_losses(chain: Chain) -> Figures:
    return {
        "stage1": chain.train("stage1", "golden1", *STEPS),
        "stage2": chain.train("stage2", "golden2", *STEPS),
        "stage1, dropout, averaged, stopped and resumed": chain.train_with_a_break(
            "stage1", "golden3", *STEPS, "stage1.dropout=0.2", "train.ema=0.9"
        ),
        "stage2, stopped and resumed": chain.train_with_a_break("stage2", "golden4", *STEPS),
    }


def record_ray_losses(chain: Chain) -> Figures:
    figures = {}
    for stage in ("stage1", "stage2"):
        for zero in (0, 2):
            settings = (*STEPS, *ON_RAY, f"train.zero={zero}")
            figures[f"{stage}, two workers, ZeRO {zero}"] = chain.train(stage, f"ray-{stage}-{zero}", *settings)
    return figures


def compare_losses(recorded: Figures, now: Figures, within: float = LOSSES_WITHIN) -> list[str]:
    problems = []
    for name, figures in now.items():
        differ = {}
        for key, before in recorded[name].items():
            rows, others = ([one for value in values for one in _numbers(value)] for values in (before, figures[key]))
            if len(rows) != len(others):
                problems.append(f"{name}: {len(others)} numbers of {key}, recorded {len(rows)}")
                continue
            apart = np.abs(np.array(rows) - np.array(others)) / np.maximum(1, np.abs(rows))
            if apart.any():
                differ[key] = f"{key} {apart.max():.1e}"
            allowed = max(within, NORMS_WITHIN) if key == "grad_norm" else within
            if apart.max() > allowed:
                first = int(np.nonzero(apart > allowed)[0][0])
                problems.append(f"{name}: {key} is up to {apart.max():.1e} apart, from number {first} on")
        print(f"{name}: " + (f"apart by {', '.join(differ.values())}" if differ else "equal"))
    return problems


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [float(value[key]) for key in sorted(value) if isinstance(value[key], int | float)]
    return [float(value)]


# Fixtures: a bundle, a dataset and two runs that were stopped, made by the code as it was

SMALL = ("stage1.width=16", "stage1.state_size=8", "stage1.head_dim=8", "stage2.width=16", "stage2.head_dim=8")
SMALL_STEPS = ("train.steps=4", "train.checkpoint_every=2", "train.keep_checkpoints=9", "train.samples=0")


def make_fixtures() -> Figures:
    """Write the fixtures and return what they give."""
    shutil.rmtree(FIXTURES, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(folder, *SMALL)
        chain.make_tokens()
        losses = {stage: chain.train(stage, stage, *SMALL_STEPS) for stage in ("stage1", "stage2")}
        runs = [str(chain.folder / "trained" / stage) for stage in losses]
        run("ssmttm", "export", *runs, "--out", str(chain.folder / "bundle"), "--half")
        for name in ("bundle", "tokens", "codec", "trained"):
            shutil.copytree(chain.folder / name, FIXTURES / name)
        shutil.rmtree(FIXTURES / "codec" / "samples")
        (FIXTURES / "codec" / "report.json").unlink()
        for stage in losses:
            cut_short(FIXTURES / "trained" / stage)
        for named in (folder, str(ROOT)):  # settings hold paths of both
            replace_in_files(FIXTURES, named, PLACEHOLDER)
    return {"losses": losses, "clip": fixture_clip(FIXTURES / "bundle")}


def cut_short(run_folder: Path) -> None:
    """Leave of a run of four steps what it was after two."""
    for name in ("checkpoints/step-000004", "weights", "samples"):
        shutil.rmtree(run_folder / name, ignore_errors=True)
    (run_folder / "summary.json").unlink()


def lay_out_fixtures(folder: Path) -> None:
    """Copy the fixtures to an empty folder, as if they had been made there."""
    shutil.copytree(FIXTURES, folder, dirs_exist_ok=True)
    replace_in_files(folder, PLACEHOLDER, str(folder))


def replace_in_files(folder: Path, old: str, new: str) -> None:
    for path in folder.rglob("*.json*"):
        if old in (text := path.read_text()):
            path.write_text(text.replace(old, new))


def fixture_clip(bundle: str | Path) -> Figures:
    """A second of the small bundle: short enough for every processor to draw the same codes."""
    samples_BN, codes = Doors(str(bundle)).python(lambda one: [one.generate(OTHER, 1.0, 1)])
    return described(samples_BN) | codes


def record(ray: bool) -> Figures:
    figures: Figures = {"clips": record_clips(list(CLIPS))}
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(folder)
        chain.make_tokens()
        chain.make_sidecar_tokens()
        figures["tokens"] = {name: record_tokens(chain.folder / name) for name in ("tokens", "folder-tokens")}
        figures["losses"] = record_local_losses(chain)
        if ray:
            figures["ray_losses"] = record_ray_losses(chain)
    return figures


def compare(recorded: Figures, now: Figures) -> list[str]:
    problems = compare_clips(recorded["clips"], now["clips"])
    for name, figures in recorded["tokens"].items():
        problems += compare_tokens(figures, now["tokens"][name], name)
    for part in ("losses", "ray_losses"):
        if part in now:
            problems += compare_losses(recorded[part], now[part])
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--ray", action="store_true", help="train on two Ray workers, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if options.check:
        if recorded["machine"] != machine():
            sys.exit(f"the record was made on {recorded['machine']}, this is {machine()}")
        problems = compare(recorded, record(options.ray))
        sys.exit("\n".join(problems) if problems else 0)
    figures = {"machine": machine(), **record(options.ray), "fixtures": make_fixtures()}
    RECORD.write_text(json.dumps({**recorded, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
