"""Train the neural vocoder of a fitted codec and measure it beside Griffin-Lim. Tokens stay as they are.

train.out/train_vocoder/  config.json  metrics.jsonl  checkpoints/
codec.path/               vocoder.safetensors  samples/vocoder/0-neural.wav ...  report.json (written last)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ssmttm import audio, storage
from ssmttm.codec.store import load_codec, save_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.sources.readers import read_source
from ssmttm.tracking import Tracker
from ssmttm.training.codec import REPORT_NAME, check_same, choose_clips, read_clips
from ssmttm.training.engine import tune_allocator
from ssmttm.training.run import Run, git_commit
from ssmttm.training.session import sigterm_flag
from ssmttm.training.signals import TrainingStoppedError
from ssmttm.training.vocoder_report import compare
from ssmttm.training.vocoder_trainer import VocoderTrainer

RUN_NAME = "train_vocoder"


def train_vocoder(config: Config) -> dict[str, Any]:
    """Train a vocoder on top of the codec at `codec.path`, on `vocoder.clips` seeded training clips of
    `corpus.source`, and write it there. A finished one of the same settings is left as it is; an unfinished one goes
    on from its newest checkpoint.

    Args:
        config: paths absolute.

    Returns:
        The codec's report, with the figures of `compare` under `vocoder`.

    Raises:
        UserError: if the corpus cannot be used, or codec or run are of other settings.
        TrainingStoppedError: after SIGTERM, once a checkpoint is written.
    """
    tune_allocator()
    torch.set_num_threads(max(1, int(config.train.workers * config.train.cpus_per_worker)))
    path = config.codec.path
    report = storage.read_commit(path, REPORT_NAME)
    settings = {"vocoder": config.vocoder.model_dump(mode="json"), "train": {"seed": config.train.seed}}
    if "vocoder" in report:
        check_same(f"codec.path={path} holds a vocoder trained", report["vocoder"]["settings"], settings, "codec.path")
        print(f"vocoder is already finished: {storage.join(path, REPORT_NAME)}", flush=True)
        return report
    codec = load_codec(path)
    if not codec.takes_vocoder:
        raise UserError(f"codec.path={path} holds a codec that takes no vocoder; leave out codec.vocoder=neural")
    run = _prepare(config, {**settings, "codec": {"fingerprint": report["fingerprint"]}})
    tracks = read_source(config.corpus.source, config.corpus)
    chosen = choose_clips(tracks, config.vocoder.clips, config.train.seed)
    refused: list[str] = []
    clips, originals = (list(read_clips(part, config, refused)) for part in chosen)
    if not clips or not originals:
        raise UserError(f"no clip of {config.corpus.source} can be used to train a vocoder: {refused[0]}")
    with _tracking(config, run) as tracker:
        with sigterm_flag() as stop:
            trainer = VocoderTrainer(codec, clips, run, config, tracker, stop.is_set)
            print(f"vocoder: {trainer.parameters:,} parameters, {len(clips)} clips", flush=True)
            trainer.fit()
        figures, samples = compare(codec, originals)
        save_codec(codec, path)
        uris = []
        for name, clip in samples.items():
            uris.append(storage.join(path, "samples", "vocoder", f"{name}.wav"))
            audio.write(uris[-1], clip)
        figures |= {
            "parameters": trainer.parameters,
            "seconds": round(trainer.progress.seconds, 1),
            "clips": {"train": len(clips), "held_out": len(originals), "refused": len(refused)},
            "settings": settings,
        }
        storage.write_commit(path, REPORT_NAME, {**report, "vocoder": figures})
        tracker.metrics(_scalars(figures), step=trainer.progress.step)
        tracker.artifacts([storage.join(path, REPORT_NAME), *uris])
    _print(figures)
    return storage.read_json(storage.join(path, REPORT_NAME))


def _prepare(config: Config, asked: dict[str, dict[str, Any]]) -> Run:
    """The run's folder, checked to be of these settings."""
    run = Run(storage.join(config.train.out, config.train.name or RUN_NAME))
    if storage.exists(run.path("config.json")):
        started = f"run {run.uri} was started"
        check_same(started, storage.read_json(run.path("config.json")), asked, "train.name")
    storage.make_dirs(run.uri)
    storage.write_json(run.path("config.json"), asked)
    return run


@contextmanager
def _tracking(config: Config, run: Run) -> Iterator[Tracker]:
    """A tracker whose run ends as the block does."""
    tags = {"stage": "vocoder", "run": run.uri} | ({"git_commit": commit} if (commit := git_commit()) else {})
    tracker = Tracker.start(config, run.uri.rsplit("/", 1)[-1], run.uri, tags)
    try:
        yield tracker
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, TrainingStoppedError) else "FAILED")
        raise
    tracker.finish()


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """What a tracker plots: `latents/neural/logmel_l1` and the like."""
    return {
        f"{source}/{decoder}/{name}": value
        for source in ("latents", "codes")
        for decoder, values in figures[source].items()
        for name, value in values.items()
    }


def _print(figures: dict[str, Any]) -> None:
    for source in ("latents", "codes"):
        for decoder, values in figures[source].items():
            print(
                f"{source:7}  {decoder:14}  STFT distance {values['stft_distance']:.3f}  "
                f"log-mel L1 {values['logmel_l1']:.3f}  {figures['x_realtime'][decoder]:.0f}x real time",
                flush=True,
            )
