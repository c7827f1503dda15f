"""Train the neural vocoder of a fitted codec and measure it beside Griffin-Lim on clips neither has seen. Tokens stay
as they are.

train.out/train_vocoder/  config.json  metrics.jsonl  checkpoints/
codec.path/               vocoder.safetensors  samples/vocoder/0-neural.wav ...  report.json (written last)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.codec.metrics import logmel_l1, stft_distance
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.store import load_codec, save_codec
from ssmttm.config import Config, TrainConfig
from ssmttm.config.sections import Decides
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads, tune_allocator
from ssmttm.lease import Process, hold
from ssmttm.tokens.attribution import merged_attribution
from ssmttm.tokens.schema import ATTRIBUTION_NAME
from ssmttm.training.clips import ClipReader, choose_clips, corpus_settings, read_held_out
from ssmttm.training.codec import REPORT_NAME, check_same
from ssmttm.training.engine import use_bf16
from ssmttm.training.run import Run
from ssmttm.training.session import sigterm_flag, tracking
from ssmttm.training.trainer import Trainer
from ssmttm.training.vocoder_task import VocoderTask

RUN_NAME = "train_vocoder"
RIVAL_ITERATIONS = 16
SPEED_THREADS = 2
SAMPLE_CLIPS = 4


def train_vocoder(config: Config, job: Process | None = None) -> dict[str, Any]:
    """Train a vocoder on top of the codec at `codec.path`, on `vocoder.clips` seeded training clips of
    `corpus.source`, and write it there. A finished one of the same settings is left as it is; an unfinished one goes
    on from its newest checkpoint.

    Args:
        config: paths absolute.
        job: the process that this one works for, if it is a worker.

    Returns:
        The codec's report, with the figures of `compare` under `vocoder`.

    Raises:
        UserError: if the corpus cannot be used, or codec or run are of other settings or written by another job.
        TrainingStoppedError: after SIGTERM, once a checkpoint is written.
    """
    tune_allocator()
    torch.set_num_threads(max(1, int(config.train.workers * config.train.cpus_per_worker)))
    path = config.codec.path
    report = storage.read_commit(path, REPORT_NAME)
    settings = {
        "vocoder": config.vocoder.model_dump(mode="json"),
        "corpus": corpus_settings(config),
        "train": _settings(config.train, "training", "schedule"),
    }
    if "vocoder" in report:
        check_same(f"codec.path={path} holds a vocoder trained", report["vocoder"]["settings"], settings, "codec.path")
        print(f"vocoder is already finished: {storage.join(path, REPORT_NAME)}", flush=True)
        return report
    loaded = load_codec(path)
    if not loaded.takes_vocoder:
        raise UserError(f"codec.path={path} holds a codec that takes no vocoder; leave out codec.vocoder=neural")
    folder = storage.join(config.train.out, config.train.name or RUN_NAME)
    with hold(path, "choose another codec.path", job), hold(folder, "choose another train.name", job) as lease:
        return _train(config, cast(MiniCodec, loaded), report, settings, Run(folder, lease))


def _train(
    config: Config, codec: MiniCodec, report: dict[str, Any], settings: dict[str, Any], run: Run
) -> dict[str, Any]:
    path = config.codec.path
    kept = {"codec": {"fingerprint": report["fingerprint"]}, "train": _kept(config.train)}
    _prepare(run, {**settings, **kept})
    reader = ClipReader(config)
    learned: dict[str, float] = {}
    measured: dict[str, float] = {}
    try:
        to_learn, held_out = choose_clips(reader.tracks, config.vocoder.clips, config.train.seed)
        originals = read_held_out(reader, to_learn, held_out, measured)
        clips = list(reader.read(to_learn, learned))
    except UserError as error:
        raise UserError(f"{error} ({reader.refusals()})" if reader.rejects else str(error)) from None
    if not clips or not originals:
        raise UserError(f"too few clips of {config.corpus.source} can be used to train a vocoder ({reader.refusals()})")
    task = VocoderTask(codec, clips, config)
    with tracking(config, task.name, run) as tracker:
        with sigterm_flag() as stop:
            trainer = Trainer(task, run, task.make_engine, tracker, stop_requested=stop.is_set, finish=task.keep)
            parameters = sum(parameter.numel() for parameter in task.vocoder.parameters())
            print(f"vocoder: {parameters:,} parameters, {len(clips)} clips", flush=True)
            trainer.fit()
        figures, samples = compare(codec, originals)
        save_codec(codec, path)
        uris = []
        for name, clip in samples.items():
            uris.append(storage.join(path, "samples", "vocoder", f"{name}.wav"))
            audio.write(uris[-1], clip)
        figures |= {
            "parameters": parameters,
            "seconds": round(trainer.progress.seconds, 1),
            "clips": {"train": len(clips), "held_out": len(originals), "refused": len(reader.rejects)},
            "data": reader.record(learned),
            "settings": settings,
        }
        reader.write_rejects(path)
        _attribute(path, reader.attribution(learned | measured))
        storage.write_commit(path, REPORT_NAME, {**report, "vocoder": figures})
        tracker.metrics(_scalars(figures), step=trainer.progress.step)
        tracker.artifacts([storage.join(path, REPORT_NAME), *uris])
    _print(figures)
    return storage.read_json(storage.join(path, REPORT_NAME))


def _settings(train: TrainConfig, *kinds: Decides) -> dict[str, Any]:
    """Those of a training's settings that are the vocoder's too, which has steps and a rate of its own."""
    mine = {name for name in train.deciding(*kinds) if "codec" in train.facts()[name].jobs}
    return train.model_dump(mode="json", include=mine)


def _kept(train: TrainConfig) -> dict[str, Any]:
    """What an unfinished run keeps besides: how it is computed, and in which precision, whatever `auto` means here."""
    precision = "bf16" if use_bf16(train) else "fp32"
    kept = _settings(train, "training", "schedule", "arithmetic")
    del kept["launch"]  # it is trained in one process whatever that says
    return {**kept, "precision": precision}


def _prepare(run: Run, asked: dict[str, dict[str, Any]]) -> None:
    """Check the run's folder to be of these settings."""
    if storage.exists(run.path("config.json")):
        started = f"run {run.uri} was started"
        check_same(started, storage.read_json(run.path("config.json")), asked, "train.name")
    storage.write_json(run.path("config.json"), asked)


def _attribute(path: str, table: str) -> None:
    """Add what the vocoder used to the attribution of its codec."""
    uri = storage.join(path, ATTRIBUTION_NAME)
    known = [(storage.read_text(uri), ("codec",))] if storage.exists(uri) else []
    storage.write_text(uri, merged_attribution([*known, (table, ("vocoder",))]))


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


def with_griffin_lim(codec: MiniCodec, iterations: int = RIVAL_ITERATIONS) -> MiniCodec:
    """The same codec without its vocoder, decoding with `iterations` projections."""
    plain = codec.from_config(codec.config.model_copy(update={"griffin_lim_iterations": iterations}))
    plain.load_state_dict(codec.state_dict(), strict=False)
    return plain.eval()


@torch.inference_mode()
def compare(codec: MiniCodec, originals: Sequence[np.ndarray]) -> tuple[dict[str, Any], dict[str, Audio]]:
    """Both decoders on the same latents of held-out clips (float32 [N] each, zero-padded to whole frames).

    Returns:
        (figures, samples): `latents` and `codes` (continuous latents, and those of all codebooks), each by decoder
        with `stft_distance` (of which `convergence` and `level` are the parts) and `logmel_l1`, means over clips;
        `x_realtime` at two threads; the decoded first clips.
    """
    decoders = {"neural": codec, f"griffin_lim_{RIVAL_ITERATIONS}": with_griffin_lim(codec)}
    figures: dict[str, Any] = {"latents": {}, "codes": {}}
    samples: dict[str, Audio] = {}
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for index, wav_N in enumerate(originals):
        wav_BN = torch.from_numpy(wav_N)[None]
        codes_BKT, fine_BDT = codec.encode_with_latents(wav_BN[:, None])
        coarse_BDT = codec.coarse(codes_BKT[:, 0])
        for source, fine in (("latents", fine_BDT), ("codes", codec.fine_from_codes(codes_BKT))):
            for name, decoder in decoders.items():
                decoded_BN = decoder.decode(coarse_BDT, fine)[:, 0, : len(wav_N)]
                rows.setdefault((source, name), []).append(_distances(decoded_BN, wav_BN, codec.sample_rate))
                if index < SAMPLE_CLIPS and source == "latents":
                    samples[f"{index}-{name}"] = Audio(decoded_BN.numpy(), codec.sample_rate)
    for (source, name), values in rows.items():
        convergence, level, logmel = (round(float(value), 4) for value in np.mean(values, axis=0))
        figures[source][name] = {
            "stft_distance": round(convergence + level, 4),
            "convergence": convergence,
            "level": level,
            "logmel_l1": logmel,
        }
    figures["x_realtime"] = {name: _speed(decoder, codes_BKT) for name, decoder in decoders.items()}
    return figures, samples


def _distances(decoded_BN: Tensor, original_BN: Tensor, sample_rate: int) -> tuple[float, float, float]:
    distance = stft_distance(decoded_BN, original_BN)
    return float(distance.convergence), float(distance.level), logmel_l1(decoded_BN, original_BN, sample_rate)


def _speed(codec: MiniCodec, codes_BKT: Tensor) -> float:
    """Seconds of audio that one second of `SPEED_THREADS` threads decodes: the best of three."""
    taken = []
    with torch_threads(SPEED_THREADS):
        for _ in range(3):
            start = time.perf_counter()
            codec.decode_codes(codes_BKT)
            taken.append(time.perf_counter() - start)
    return round(codes_BKT.shape[-1] / codec.frame_rate / min(taken), 1)
