"""The neural vocoder beside Griffin-Lim, on composed clips and on recorded music.

    python tests/benchmarks/vocoder.py --codec FOLDER --composed FOLDER --recorded FOLDER [--clips 16] [--seconds 10]

--codec is a codec with its vocoder; --composed a corpus whose held-out clips are taken; --recorded any folder of audio
files, none of which the vocoder was trained on: a stretch from the middle of each. Both decoders get the same latents,
continuous and from codes. The result goes to results/vocoder.json, and with --spectrograms FOLDER pictures of the first
clips: original, Griffin-Lim, neural.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine

from ssmttm import audio, config
from ssmttm.audio import Audio
from ssmttm.codec import MiniCodec, load_codec
from ssmttm.training.clips import ClipReader, choose_clips
from ssmttm.training.vocoder import RIVAL_ITERATIONS, SPEED_THREADS, compare

RESULTS = Path(__file__).parent / "results"
SUFFIXES = {".opus", ".ogg", ".flac", ".wav", ".mp3"}


def composed_clips(folder: str, count: int, seconds: float) -> list[np.ndarray]:
    settings = config.load("mini", [f"corpus.source={folder}", f"corpus.segment_seconds={seconds}"], "codec")
    reader = ClipReader(settings)
    _, held_out = choose_clips(reader.tracks, 1, settings.train.seed)
    return list(reader.read(held_out[:count], {}))


def recorded_clips(folder: Path, count: int, seconds: float, rate: int) -> list[np.ndarray]:
    """The middle of as many files, spread over the folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = [files[round(place)] for place in np.linspace(0, len(files) - 1, min(count, len(files)))]
    clips = []
    for path in chosen:
        whole = audio.read(str(path))
        length = min(round(seconds * whole.sample_rate), whole.samples.shape[1])
        start = (whole.samples.shape[1] - length) // 2
        stretch = Audio(whole.samples[:, start : start + length], whole.sample_rate)
        clips.append(audio.resample(audio.to_mono(stretch), rate).samples[0])
    return clips


def draw(codec: MiniCodec, originals: list[np.ndarray], samples: dict[str, Audio], name: str, folder: Path) -> None:
    """One picture per clip: spectrograms of three seconds, one above the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    rival = f"griffin_lim_{RIVAL_ITERATIONS}"
    for index in range(len(originals)):
        if f"{index}-neural" not in samples:
            break
        wavs = {"original": originals[index]}
        wavs |= {kind: samples[f"{index}-{kind}"].samples[0] for kind in (rival, "neural")}
        figure, axes = plt.subplots(3, 1, figsize=(12, 14), sharex=True)
        for axis, (title, wav_N) in zip(axes, wavs.items(), strict=True):
            spectrum_FL = codec.vocoder.stft(torch.from_numpy(np.ascontiguousarray(wav_N[: 3 * 24_000]))[None])[0]
            level = 20 * spectrum_FL.abs().clamp_min(1e-3).log10().T.numpy()
            axis.imshow(level, origin="lower", aspect="auto", vmin=-40, vmax=45, cmap="magma")
            axis.set_title(title)
        figure.tight_layout()
        figure.savefig(folder / f"{name}-{index}.png", dpi=70)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", required=True)
    parser.add_argument("--composed", required=True)
    parser.add_argument("--recorded", required=True, type=Path)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--spectrograms", type=Path)
    arguments = parser.parse_args()
    codec = load_codec(arguments.codec)
    assert isinstance(codec, MiniCodec)
    assert codec.neural_vocoder is not None, "the codec has no vocoder; train one with codec.vocoder=neural"
    result: dict[str, Any] = {
        "machine": machine(SPEED_THREADS, torch.device("cpu")),
        "parameters": sum(parameter.numel() for parameter in codec.neural_vocoder.parameters()),
        "bytes": (Path(arguments.codec) / "vocoder.safetensors").stat().st_size,
        "seconds_per_clip": arguments.seconds,
    }
    for name, originals in (
        ("composed", composed_clips(arguments.composed, arguments.clips, arguments.seconds)),
        ("recorded", recorded_clips(arguments.recorded, arguments.clips, arguments.seconds, codec.sample_rate)),
    ):
        figures, samples = compare(codec, originals)
        result[name] = {"clips": len(originals), **figures}
        if arguments.spectrograms is not None:
            draw(codec, originals, samples, name, arguments.spectrograms)
        print(name, json.dumps(figures, indent=1), flush=True)
    (RESULTS / "vocoder.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
