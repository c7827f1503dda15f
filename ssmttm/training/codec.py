"""Fit the codec on clips of a corpus and measure it on held-out ones.

codec.path/  codec.json  codec.safetensors  samples/0-original.wav ...  rejects.jsonl  ATTRIBUTION.csv
             report.json (commit file, written last)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.codec.base import Codec
from ssmttm.codec.metrics import logmel_l1
from ssmttm.codec.registry import CODECS
from ssmttm.codec.store import save_codec
from ssmttm.config import CodecConfig, Config
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads
from ssmttm.lease import Process, hold
from ssmttm.sources.manifest import REJECTS_NAME
from ssmttm.tokens.attribution import merged_attribution
from ssmttm.tokens.schema import ATTRIBUTION_NAME
from ssmttm.tracking import Tracker
from ssmttm.training.clips import ClipReader, choose_clips, corpus_settings, read_held_out

REPORT_NAME = "report.json"
RUN_NAME = "train_codec"
SAMPLE_CLIPS = 4


def train_codec(config: Config, tracker: Tracker | None = None, job: Process | None = None) -> dict[str, Any]:
    """Fit the codec that `config.codec` describes on `codec.fit_clips` seeded training clips of `corpus.source`, and
    write it with its report to `codec.path`. A finished codec of the same settings is left as it is.

    Args:
        config: paths absolute.
        tracker: where figures and samples go besides; by default a run of its own, ended here.
        job: the process that this one works for, if it is a worker.

    Returns:
        The report: `data` (what it was fitted on, and what was refused), `logmel_l1` (all codebooks),
        `logmel_l1_coarse` (codebook 0), `logmel_l1_latents` (coarse and continuous fine latents, nothing quantised
        away), the share of each codebook's entries used by the held-out clips, and seconds.

    Raises:
        UserError: if the corpus cannot be used, `codec.path` holds a codec of other settings, is written by another job
            or cannot be written, or the codec is not one that is fitted.
    """
    kind = CODECS.find(config.codec.name)
    if not kind.is_fitted:
        raise UserError(
            f"codec.name={config.codec.name} is a published codec, with nothing to fit: put its checkpoint at "
            f"codec.path={config.codec.path} and go on with jobs/preprocess.py"
        )
    if config.codec.vocoder == "neural" and not kind.takes_vocoder:
        raise UserError(f"codec.name={config.codec.name} takes no vocoder; leave out codec.vocoder=neural")
    settings = _settings(config)
    done = _finished(config.codec.path, settings)
    if done is None:
        storage.check_writable(storage.join(config.codec.path, REPORT_NAME))
        with hold(config.codec.path, "choose another codec.path", job):
            done = _finished(config.codec.path, settings)  # by now, perhaps
            if done is None:
                return _fit(config, settings, tracker)
    print(f"codec is already finished: {storage.join(config.codec.path, REPORT_NAME)}", flush=True)
    return done


def _fit(config: Config, settings: dict[str, dict[str, Any]], tracker: Tracker | None) -> dict[str, Any]:
    own = tracker or Tracker.start(config, RUN_NAME, storage.join(config.train.out, RUN_NAME), {"stage": "codec"})
    try:
        report = _fit_and_measure(config, settings, own)
    except BaseException:
        if tracker is None:
            own.finish("FAILED")
        raise
    if tracker is None:
        own.finish()
    return report


def _settings(config: Config) -> dict[str, dict[str, Any]]:
    """What a fitted codec depends on."""
    codec = config.codec.model_dump(mode="json", include=set(CodecConfig.deciding("model", "training")))
    return {"codec": codec, "corpus": corpus_settings(config), "train": {"seed": config.train.seed}}


def _finished(uri: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The report of a finished codec; None if there is none yet.

    Raises:
        UserError: if it has other settings, naming the first that differs.
    """
    if not storage.exists(storage.join(uri, REPORT_NAME)):
        return None
    report = storage.read_commit(uri, REPORT_NAME)
    check_same(f"codec.path={uri} holds a codec fitted", report["settings"], settings, "codec.path")
    return report


def check_same(what: str, before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]], key: str) -> None:
    """Raises UserError naming the first setting that differs, and the key to change. What was made before there was a
    setting says nothing of it."""
    old = _flat(before)
    for name, value in _flat(now).items():
        if name in old and old[name] != value:
            raise UserError(f"{what} with {name}={old[name]}, now {value}; choose another {key} or remove it")


def _flat(settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, table in settings.items() for key, value in table.items()}


def _fit_and_measure(config: Config, settings: dict[str, dict[str, Any]], tracker: Tracker) -> dict[str, Any]:
    start = time.perf_counter()
    reader = ClipReader(config)
    learned: dict[str, float] = {}
    measured: dict[str, float] = {}
    storage.remove_tree(storage.join(config.codec.path, REJECTS_NAME))  # of a fit that was not finished
    try:
        to_fit, held_out = choose_clips(reader.tracks, config.codec.fit_clips, config.train.seed)
        originals = read_held_out(reader, to_fit, held_out, measured)
        codec = CODECS.find(config.codec.name).from_config(config.codec)
        with FlopCounterMode(display=False) as counter:  # counts products, not Fourier transforms
            codec.fit(reader.read(to_fit, learned), config.train.seed)
    except UserError as error:
        raise UserError(f"{error} ({reader.refusals()})" if reader.rejects else str(error)) from None
    finally:
        reader.write_rejects(config.codec.path)
    fitted = time.perf_counter()
    if not originals:
        raise UserError(f"no clip of {config.corpus.source} is left to measure the codec on ({reader.refusals()})")
    save_codec(codec, config.codec.path)
    figures, samples = measure_codec(codec, originals)
    for name, clip in samples.items():
        storage.make_dirs(storage.join(config.codec.path, "samples"))
        audio.write(storage.join(config.codec.path, "samples", f"{name}.wav"), clip)
    table = merged_attribution([(reader.attribution(learned | measured), ("codec",))])
    storage.write_text(storage.join(config.codec.path, ATTRIBUTION_NAME), table)
    if reader.rejects:
        print(f"{reader.refusals()}; see {storage.join(config.codec.path, REJECTS_NAME)}", flush=True)
    report = {
        **figures,
        "seconds": {"fit": round(fitted - start, 2), "measure": round(time.perf_counter() - fitted, 2)},
        "flops": counter.get_total_flops(),
        "clips": {"fit": len(learned), "held_out": len(originals), "refused": len(reader.rejects)},
        "data": reader.record(learned),
        "fingerprint": codec.fingerprint(),
        "settings": settings,
    }
    storage.write_commit(config.codec.path, REPORT_NAME, report)
    scalars = {name: value for name, value in figures.items() if isinstance(value, float)}
    tracker.metrics({**scalars, "fit_seconds": report["seconds"]["fit"]}, step=0)
    tracker.artifacts([storage.join(config.codec.path, REPORT_NAME)])
    tracker.artifacts([storage.join(config.codec.path, "samples", f"{name}.wav") for name in samples])
    used = ", ".join(f"{share:.0%}" for share in figures["codebook_usage"])
    print(
        f"codec: log-mel L1 {figures['logmel_l1']:.3f} ({codec.num_codebooks} codebooks), "
        f"{figures['logmel_l1_coarse']:.3f} (codebook 0), entries used on {len(originals)} held-out clips: {used}; one "
        f"thread encodes {figures['encode_x_realtime']:.0f}x, decodes {figures['decode_x_realtime']:.0f}x real time",
        flush=True,
    )
    return storage.read_json(storage.join(config.codec.path, REPORT_NAME))


@torch_threads()  # speeds are stated for one thread, and one clip's small steps gain nothing from more
@torch.inference_mode()
def measure_codec(codec: Codec, originals: Sequence[np.ndarray]) -> tuple[dict[str, Any], dict[str, Audio]]:
    """Figures of a codec on held-out clips (float32 [N] each), and the first `SAMPLE_CLIPS` of them as they are, from
    all codebooks and from codebook 0 alone (`0-original`, `0-codec`, `0-coarse`, `1-original`, ...)."""
    errors: dict[str, list[float]] = {"logmel_l1": [], "logmel_l1_coarse": [], "logmel_l1_latents": []}
    samples: dict[str, Audio] = {}
    codes, encoding, decoding = [], 0.0, 0.0
    for index, wav_N in enumerate(originals):
        wav_BN = torch.from_numpy(wav_N)[None]
        start = time.perf_counter()
        codes_BKT, fine_BDT = codec.encode_with_latents(wav_BN[:, None])
        encoding += time.perf_counter() - start
        start = time.perf_counter()
        decoded_BN = codec.decode_codes(codes_BKT)[:, 0, : len(wav_N)]
        decoding += time.perf_counter() - start
        coarse_BDT = codec.coarse(codes_BKT[:, 0])
        coarse_BN = codec.decode(coarse_BDT, torch.zeros_like(fine_BDT))[:, 0, : len(wav_N)]
        latents_BN = codec.decode(coarse_BDT, fine_BDT)[:, 0, : len(wav_N)]
        for name, wav in zip(errors, (decoded_BN, coarse_BN, latents_BN), strict=True):
            errors[name].append(logmel_l1(wav, wav_BN, codec.sample_rate))
        codes.append(codes_BKT[0])
        if index < SAMPLE_CLIPS:
            for name, wav in (("original", wav_BN), ("codec", decoded_BN), ("coarse", coarse_BN)):
                samples[f"{index}-{name}"] = Audio(wav.numpy(), codec.sample_rate)
    seconds = sum(len(wav_N) for wav_N in originals) / codec.sample_rate
    figures = {name: round(float(np.mean(values)), 4) for name, values in errors.items()}
    return {
        **figures,
        "codebook_usage": _usage(torch.cat(codes, dim=1), codec.codebook_size),
        "encode_x_realtime": round(seconds / encoding, 1),
        "decode_x_realtime": round(seconds / decoding, 1),
    }, samples


def _usage(codes_KT: Tensor, codebook_size: int) -> list[float]:
    """Share of each codebook's entries that occur."""
    return [round(len(codes_T.unique()) / codebook_size, 4) for codes_T in codes_KT]
