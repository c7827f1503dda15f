"""Ten minutes of one piece: is there a seam, does memory grow, how fast are stage 2 and the codec alone?

    python tests/benchmarks/long_render.py --bundle FOLDER [--minutes 1 10] [--threads 2]

Each length is made in a process of its own: first stage 2 and the codec alone, from random codes, then the whole
stream, whose peak of resident memory is read and in whose sound the borders of stage 2's windows are looked for. The
result goes to results/long_render.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine

from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.evaluation import seams

RESULTS = Path(__file__).parent / "results"
PROMPT = "a slow jazz piece with a piano melody, in D minor, with drums, at 90 bpm"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def render_alone(generator: Generator, seconds: float) -> tuple[float, float]:
    """Wall-clock and processor seconds of stage 2 and the codec."""
    bundle = generator.bundle
    frames = round(seconds * bundle.codec.frame_rate)
    codes_BT = torch.randint(bundle.codec.codebook_size, (1, frames), generator=torch.Generator().manual_seed(0))
    piece = Piece.of(bundle, MusicRequest(PROMPT, seed=0), frames)
    start, spent = time.perf_counter(), time.process_time()
    for _ in generator.renderer.render(iter(codes_BT[:, None].unbind(2)), [piece]):
        pass
    return time.perf_counter() - start, time.process_time() - spent


def stream(generator: Generator, seconds: float) -> tuple[float, float, list[seams.Changes]]:
    """Wall-clock seconds of the whole stream; the least that a listener who began with the first piece still had to
    hear when another came, in seconds, below 0 if he had to wait; and what changes from code frame to code frame. The
    sound is dropped as it comes, but for what the next junction needs."""
    hop = generator.bundle.codec.hop_length
    first, sent, ahead = 0.0, 0.0, float("inf")
    heard: list[seams.Changes] = []
    rest = np.zeros(0, np.float32)
    start = time.perf_counter()
    for audio in generator.stream(PROMPT, seconds, seed=0):
        now = time.perf_counter()
        first = first or now
        if sent:
            ahead = min(ahead, sent - (now - first))
        sent += audio.seconds
        rest = np.concatenate([rest, audio.samples[0]])
        whole = len(rest) // hop
        if whole > 1:
            heard.append(seams.changes(rest[: whole * hop], audio.sample_rate, hop))
            rest = rest[(whole - 1) * hop :]
    return time.perf_counter() - start, ahead, heard


def measure(bundle: str, minutes: float, threads: int, results: Any) -> None:
    torch.set_num_threads(threads)
    generator = Generator.load(bundle, "cpu")
    seconds = 60 * minutes
    render_alone(generator, 5.0)
    alone_s, alone_cpu_s = render_alone(generator, seconds)
    alone_mb = peak_mb()
    stream_s, ahead_s, heard = stream(generator, seconds)
    renderer = generator.renderer
    values = {name: np.concatenate([getattr(one, name) for one in heard]) for name in ("level", "flux", "burst")}
    at_border = seams.borders(len(values["flux"]), renderer.hop, renderer.first_hop)
    told = {name: seams.separation(value, at_border) for name, value in values.items()}
    results.put(
        {
            "stage2_and_codec_times_real_time": round(seconds / alone_s, 2),
            "stage2_and_codec_cpu_s_per_minute": round(60 * alone_cpu_s / seconds, 2),
            "stage2_and_codec_peak_MB": round(alone_mb, 1),
            "stream_times_real_time": round(seconds / stream_s, 2),
            "stream_least_ahead_of_playback_s": round(ahead_s, 2),
            "stream_peak_MB": round(peak_mb(), 1),
            "borders": int(at_border.sum()),
            "borders_told_by": {name: {"area": round(a, 3), "p": round(p, 4)} for name, (a, p) in told.items()},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    content: dict[str, Any] = {"machine": machine(arguments.threads, torch.device("cpu"))}
    content["load_before"] = round(os.getloadavg()[0], 2)  # other work on the machine makes the speeds too low
    for minutes in arguments.minutes:
        results = context.Queue()
        process = context.Process(target=measure, args=(arguments.bundle, minutes, arguments.threads, results))
        process.start()
        content[f"{minutes:g} min"] = results.get()
        process.join()
        print(f"{minutes:g} min: {content[f'{minutes:g} min']}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "long_render.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
