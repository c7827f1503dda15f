"""What is heard of music whose truth nobody wrote down, and what hearing costs.

    python tests/benchmarks/hearing.py --recorded FOLDER [--composed FOLDER] [--codec FOLDER]

FOLDERs hold audio, at any depth; of each file up to `--segments` segments of ten seconds are heard, evenly from all of
it. Prints the share of seconds in which each control is known, how often segments of one file agree on the tempo, and
of both folders together, half of each, the quantiles that `conditions/hearing/texture.py` ranks by. With a codec: the
time of hearing beside that of encoding the same segments, both in one thread.
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmttm import audio
from ssmttm.codec.store import load_codec
from ssmttm.conditions.base import Excerpt
from ssmttm.conditions.hearing import texture
from ssmttm.conditions.hearing.sound import Sound
from ssmttm.conditions.registry import control_of
from ssmttm.errors import UserError
from ssmttm.opener import AUDIO_EXTENSIONS

SECONDS, RATE, FRAME_RATE = 10.0, 24_000, 25.0
CONTROLS = ("beat", "chord", "scale", "drums", "bass", "density", "brightness")
QUANTILES = np.linspace(0, 1, 21)


def segments_of(folder: Path, most: int) -> list[tuple[str, np.ndarray]]:
    """File and samples [N] of each segment."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix[1:].lower() not in AUDIO_EXTENSIONS:
            continue
        try:
            with audio.open_audio(str(path)) as source:
                seconds = source.frames / source.sample_rate
            for start in np.linspace(0, max(seconds - SECONDS, 0), most if seconds > 2 * SECONDS else 1):
                clip = audio.resample(audio.to_mono(audio.read(str(path), float(start), SECONDS)), RATE)
                if clip.seconds > 0.9 * SECONDS and np.abs(clip.samples).max() > 0.01:
                    found.append((str(path), clip.samples[0]))
        except UserError as error:
            print(f"left out: {error}")
    return found


def heard(segments: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    known: dict[str, list[float]] = {name: [] for name in CONTROLS}
    tempi: dict[str, list[float]] = {}
    densities, brightnesses, spent = [], [], 0.0
    for path, samples in segments:
        begin = time.perf_counter()
        excerpt = Excerpt({}, samples[None], RATE, 0.0, round(len(samples) / RATE * FRAME_RATE), FRAME_RATE)
        for name in CONTROLS:
            values = control_of(name).measure(excerpt)
            known[name].append(0.0 if values is None else float(np.isfinite(values).all(axis=0).mean()))
        spent += time.perf_counter() - begin
        if excerpt.beats.known:
            tempi.setdefault(path, []).append(excerpt.beats.bpm)
        sound = Sound(samples, RATE)
        densities.append(texture.onsets_per_second(sound)[::10])
        brightnesses.append(texture.centroid(sound)[::10])
    ratios = np.array([a / b for of_file in tempi.values() for a, b in combinations(of_file, 2)])
    return {
        "segments": len(segments),
        "files": len({path for path, _ in segments}),
        "known": {name: round(float(np.mean(shares)), 3) for name, shares in known.items()},
        "tempo_pairs": len(ratios),
        "tempo_agrees": round(float((np.abs(ratios - 1) < 0.02).mean()), 3) if len(ratios) else None,
        "ms_per_second": round(1e3 * spent / (SECONDS * len(segments)), 2),
        "density": np.concatenate(densities),
        "brightness": np.concatenate(brightnesses),
    }


def mixed(parts: list[np.ndarray]) -> list[float]:
    """Quantiles of sets that count alike, however large."""
    values, weights = np.concatenate(parts), np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])
    order = np.argsort(values, kind="stable")
    return np.interp(QUANTILES * len(parts), np.cumsum(weights[order]), values[order]).round(3).tolist()


@torch.inference_mode()
def encoding(codec_uri: str, segments: list[tuple[str, np.ndarray]]) -> float:
    """Milliseconds of the codec for a second of sound."""
    codec = load_codec(codec_uri).eval()
    size = codec.encode_batch
    batches = [segments[start : start + size] for start in range(0, len(segments) - size + 1, size)][:8]
    begin = time.perf_counter()
    for batch in batches:
        wavs = torch.zeros(size, 1, round(SECONDS * codec.sample_rate))
        for row, (_, samples) in enumerate(batch):
            wavs[row, 0, : len(samples)] = torch.from_numpy(samples)[: wavs.shape[2]]
        codec.encode_with_latents(wavs)
    return round(1e3 * (time.perf_counter() - begin) / (SECONDS * size * len(batches)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, required=True)
    parser.add_argument("--composed", type=Path)
    parser.add_argument("--codec")
    parser.add_argument("--segments", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    densities, brightnesses = [], []
    for folder in filter(None, (arguments.recorded, arguments.composed)):
        segments = segments_of(folder, arguments.segments)
        heard(segments[:1])  # imports, and librosa's compiled parts
        result = heard(segments)
        densities.append(result.pop("density"))
        brightnesses.append(result.pop("brightness"))
        if arguments.codec:
            result["encoding_ms_per_second"] = encoding(arguments.codec, segments)
        print(folder.name, result, flush=True)
    print("DENSITY =", tuple(mixed(densities)))
    print("BRIGHTNESS =", tuple(mixed(brightnesses)))


if __name__ == "__main__":
    main()
