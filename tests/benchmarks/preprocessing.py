"""Ray's share of preprocessing, and the memory of its workers.

    python tests/benchmarks/preprocessing.py --source FOLDER --codec FOLDER [--minutes 30] [--long-file]

FOLDER holds recorded music with captions beside it. In one run, on the same audio: how fast two bare processes encode
it (codec and text encoder alone, audio decoded beforehand; and with decoding), and how fast `jobs/preprocess.py` makes
token shards of it with two workers, from start to commit file. Peak memory of the workers is compared with that of a
process that holds the models and does nothing. --long-file joins all tracks into one WAV of two hours first, which
shows that memory does not grow with a file. The result goes to results/preprocessing-CODEC[-long].json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import soundfile
import torch
from measuring import machine

from ssmttm import config
from ssmttm.codec.store import load_codec
from ssmttm.config import Config

RESULTS = Path(__file__).parent / "results"
WORKERS = 2


def excerpt(source: Path, folder: Path, minutes: float) -> None:
    """Whole tracks until there are so many minutes, and their captions."""
    folder.mkdir()
    seconds = 0.0
    for track in sorted(source.iterdir()):
        if track.suffix in (".txt", ".json") or seconds > 60 * minutes:
            continue
        shutil.copy(track, folder / track.name)
        seconds += soundfile.info(track).duration
        for sidecar in (track.with_suffix(".txt"), track.with_suffix(".json")):
            if sidecar.exists():
                shutil.copy(sidecar, folder / sidecar.name)


def joined(source: Path, folder: Path, minutes: float) -> None:
    """One WAV of all tracks, as long as asked."""
    folder.mkdir()
    tracks = [path for path in sorted(source.iterdir()) if path.suffix not in (".txt", ".json")]
    first = soundfile.info(tracks[0])
    (folder / "all.txt").write_text("recorded music, one piece after another\n")
    with soundfile.SoundFile(folder / "all.wav", "w", first.samplerate, 2, "PCM_16") as out:
        for track in tracks:
            for block in soundfile.blocks(track, 2**18, always_2d=True):
                out.write(block[:, [0, -1]])
                if out.tell() >= 60 * minutes * first.samplerate:
                    return


def bare(settings: Config, share: int, start: Any, results: Any) -> None:
    """Encode every second shard of the plan without Ray; seconds of work and of audio, memory of the models."""
    from ssmttm.tokens.decode import read_segments
    from ssmttm.tokens.plan import plan_dataset
    from ssmttm.tokens.write import PartWriter

    torch.set_num_threads(1)
    worker = PartWriter(settings)
    codec, encoder = worker.codec, worker.encoder
    with torch.inference_mode():
        codec.encode_with_latents(torch.zeros(1, 1, codec.sample_rate))
    encoder.encode(["warm"])
    models = psutil.Process().memory_info().rss
    plan = plan_dataset(settings, codec, encoder)
    spent = {"decode": 0.0, "encode": 0.0, "text": 0.0}
    audio = 0.0
    start.wait()
    for shard in plan.shards[share::WORKERS]:
        begin = time.perf_counter()
        wavs = []
        for segment in shard.segments:
            wavs += [wav for _, wav in read_segments([segment], shard.decoding) if not hasattr(wav, "reason")]
        spent["decode"] += time.perf_counter() - begin
        length = round(shard.segment_seconds * codec.sample_rate)
        begin = time.perf_counter()
        with torch.inference_mode():
            for index in range(0, len(wavs), codec.encode_batch):
                batch = torch.zeros(codec.encode_batch, 1, length)
                for row, wav in enumerate(wavs[index : index + codec.encode_batch]):
                    batch[row, 0, : len(wav)] = torch.from_numpy(wav)
                codec.encode_with_latents(batch)
        spent["encode"] += time.perf_counter() - begin
        audio += sum(len(wav) for wav in wavs) / codec.sample_rate
    begin = time.perf_counter()
    for text in plan.texts[share::WORKERS]:
        encoder.encode(list(text.captions))
    spent["text"] = time.perf_counter() - begin
    results.put({"audio_s": audio, "models_bytes": models, **spent})


def bare_speed(settings: Config) -> list[dict[str, float]]:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(WORKERS), context.Queue()
    processes = [context.Process(target=bare, args=(settings, share, start, results)) for share in range(WORKERS)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


class Watch:
    """Peak resident memory of the encoding workers."""

    def __init__(self) -> None:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                if "MapWorker" in " ".join(process.info["cmdline"] or ()):
                    try:
                        self.peak = max(self.peak, process.memory_info().rss)
                    except psutil.NoSuchProcess:
                        continue

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--codec", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows-per-shard", type=int, default=16)
    parser.add_argument("--long-file", action="store_true")
    arguments = parser.parse_args()

    import ray

    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    from jobs.preprocess import execute_with_ray
    from ssmttm.tokens.write import PartWriter, preprocess

    folder = Path(tempfile.mkdtemp(prefix="preprocessing"))
    (joined if arguments.long_file else excerpt)(arguments.source.resolve(), folder / "music", arguments.minutes)
    codec = load_codec(arguments.codec).describe()["name"]
    runs = []
    for index in range(arguments.rounds):
        out = folder / f"tokens-{index}"
        overrides = [f"corpus.source={folder / 'music'}", f"codec.path={arguments.codec}", f"corpus.out={out}"]
        overrides += [
            f"codec.name={codec}",
            "corpus.default_licence=own-work",
            f"corpus.rows_per_shard={arguments.rows_per_shard}",
        ]
        settings = config.load("mini", [*overrides, f"corpus.actors={WORKERS}"], job="preprocess")
        alone = bare_speed(settings)
        ray.init(num_cpus=WORKERS, log_to_driver=False, include_dashboard=False)
        with Watch() as watch:
            result = preprocess(PartWriter(settings), execute_with_ray)
        ray.shutdown()
        seconds = sum(result.dataset["seconds_by_split"].values())
        encoders = sum(one["audio_s"] / (one["encode"] + one["text"]) for one in alone)
        with_decoding = sum(one["audio_s"] / (one["decode"] + one["encode"] + one["text"]) for one in alone)
        models = max(one["models_bytes"] for one in alone)
        runs.append(
            {
                "audio_s": round(seconds),
                "ray_times_real_time": round(seconds / result.wall_s, 1),
                "bare_encoders_times_real_time": round(encoders, 1),
                "bare_with_decoding_times_real_time": round(with_decoding, 1),
                "of_bare_encoders": round(seconds / result.wall_s / encoders, 3),
                "of_bare_with_decoding": round(seconds / result.wall_s / with_decoding, 3),
                "worker_peak_over_models_MB": round((watch.peak - models) / 1e6),
                "models_MB": round(models / 1e6),
            }
        )
        print(runs[-1], flush=True)
    name = codec + ("-long" if arguments.long_file else "")
    content = {
        "machine": machine(1, torch.device("cpu")),
        "workers": WORKERS,
        "codec": codec,
        "one_long_file": arguments.long_file,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"preprocessing-{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS / f'preprocessing-{name}.json'}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
