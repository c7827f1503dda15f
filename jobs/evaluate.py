"""Evaluate a bundle on held-out prompts: writes clips and evaluation.json under evaluate.out.

    python jobs/evaluate.py --preset mini evaluate.bundle=URI train.data=TOKENS corpus.source=CORPUS evaluate.out=URI

Runs in Ray actors of one CPU each (one GPU with train.use_gpu=true), or in process with train.launch=local.

    python jobs/evaluate.py evaluate.systems.ours=URI evaluate.systems.peer=FOLDER evaluate.reference=FOLDER

compares bundles, MusicGen checkpoints and folders of audio instead, one after the other in process: writes
comparison.json, comparison.md and comparison.html.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import config, storage
from ssmttm.comparison import compare
from ssmttm.config import Config
from ssmttm.corpus.prompts import FREE_FORM_PROMPTS
from ssmttm.corpus.readers import read_source
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.evaluation import adherence
from ssmttm.evaluation.results import Measurements, summarise
from ssmttm.evaluation.worker import HeldOut, RealClip, Request, Worker
from ssmttm.generation.fine import Piece
from ssmttm.generation.generator import Generator
from ssmttm.model.text import collate_text
from ssmttm.threads import torch_threads
from ssmttm.training.data import TokenDataset

Task = tuple[str, tuple[Any, ...]]  # a Worker's method and its arguments


def build_worker(settings: Config) -> Worker:
    """Load the bundle; true codes become sound in windows, exactly as in generation."""
    device = "cuda" if settings.train.use_gpu else "cpu"
    generator = Generator.load(settings.evaluate.bundle, device)
    bundle, defaults = generator.bundle, generator.bundle.config.generation
    codebooks = bundle.lm.config.num_codebooks

    def complete(codes_BKT: torch.Tensor, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        text = collate_text(bundle.text_encoder.encode(prompts))
        piece = Piece(text, seeds, defaults.steps, defaults.stage2_guidance)
        pieces = generator.renderer.render(iter(codes_BKT[:, :codebooks].unbind(dim=2)), codes_BKT.shape[2], piece)
        return torch.cat([audio_B1N[:, 0] for audio_B1N in pieces], dim=1)

    out, seconds = settings.evaluate.out, settings.corpus.segment_seconds
    return Worker(generator, bundle.codec, complete, out, seconds, device, codebooks)


def choose_clips(settings: Config) -> tuple[list[RealClip], list[HeldOut]]:
    """Training clips for the probes and held-out clips, each a seeded choice; the first held-out ones differ in genre.

    Raises:
        UserError: if the shards are missing or their rows do not carry the tags that prompts are checked against.
    """
    files = {track.id: track.audio for track in read_source(settings.corpus.source, settings.corpus)}

    def chosen(split: str, count: int) -> Iterator[tuple[TokenDataset, int, RealClip]]:
        dataset = TokenDataset.open(settings.train.data, split, with_fine=False)
        order = np.random.default_rng((settings.evaluate.seed, len(split))).permutation(len(dataset))[:count]
        for i in order.tolist():
            row, tags = dataset.rows[i], dataset.tags(i)
            if missing := [name for name in adherence.TAGS if name not in tags]:
                raise UserError(f"{row['id']} has no tag '{missing[0]}'; evaluation needs {', '.join(adherence.TAGS)}")
            yield dataset, i, RealClip(files[row["source_id"]], row["start_s"], row["duration_s"], tags)

    training = [clip for _, _, clip in chosen("train", settings.evaluate.probe_clips)]
    rows = list(chosen("val", settings.evaluate.clips))
    rows = [rows[i] for i in by_rounds([clip.tags["genre"] for _, _, clip in rows])]
    return training, [HeldOut(n, data.prompt(i), clip, data.codes(i)) for n, (data, i, clip) in enumerate(rows)]


def by_rounds(kinds: Sequence[str]) -> list[int]:
    """An order in which each kind comes once before any comes again."""
    before: dict[str, int] = {}
    rounds = []
    for kind in kinds:
        rounds.append(before.get(kind, 0))
        before[kind] = rounds[-1] + 1
    return sorted(range(len(kinds)), key=lambda i: rounds[i])


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def run_tasks(settings: Config, tasks: list[Task]) -> list[Any]:
    """Results of the tasks, in their order: from a worker per CPU (or GPU), or one in process (train.launch=local)."""
    progress = tqdm(total=len(tasks), desc="evaluate", unit="task", mininterval=2)
    results: list[Any] = [None] * len(tasks)
    if settings.train.launch == "local":
        with torch_threads():  # as in the actors
            worker = build_worker(settings)
            for i, (method, arguments) in enumerate(tasks):
                results[i] = getattr(worker, method)(*arguments)
                progress.update()
        return results

    import ray
    from ray.util import ActorPool

    class Actor:
        def __init__(self, settings: Config):
            torch.set_num_threads(1)
            self.worker = build_worker(settings)

        def run(self, i: int, method: str, arguments: tuple[Any, ...]) -> tuple[int, Any]:
            return i, getattr(self.worker, method)(*arguments)

    ray.init(ignore_reinit_error=True)
    gpus = int(settings.train.use_gpu)
    workers = min(int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0)), len(tasks))
    if not workers:
        raise UserError("train.use_gpu=true, but the Ray cluster has no GPU; leave it out")
    pool = ActorPool([ray.remote(num_cpus=1, num_gpus=gpus)(Actor).remote(settings) for _ in range(workers)])
    numbered = [(i, method, arguments) for i, (method, arguments) in enumerate(tasks)]
    for i, result in pool.map_unordered(lambda actor, task: actor.run.remote(*task), numbered):
        results[i] = result
        progress.update()
    return results


def evaluate(settings: Config) -> dict[str, Any]:
    """Run the whole evaluation and write evaluation.json; returns its content."""
    start, options = time.perf_counter(), settings.evaluate
    if any(60 * minutes < settings.corpus.segment_seconds for minutes in options.long_minutes):
        raise UserError(f"evaluate.long_minutes={list(options.long_minutes)} has a mark before the first segment's end")
    training, held_out = choose_clips(settings)
    if len(held_out) < options.clips:
        print(f"evaluate: the tokens hold {len(held_out)} held-out clips, fewer than evaluate.clips={options.clips}")
    shown = min(options.shown, len(held_out))
    requests = [Request(one.prompt, options.seed + one.index, f"held-out-{one.index:03d}") for one in held_out]
    own_words = FREE_FORM_PROMPTS[:: max(len(FREE_FORM_PROMPTS) // options.free_form, 1)][: options.free_form]
    free = [Request(prompt, options.seed + i, f"free-form-{i:02d}") for i, (prompt, _) in enumerate(own_words)]
    long = [replace(one, name=one.name.replace("held-out", "long")) for one in requests[: options.long_pieces]]
    longest = 60 * max(options.long_minutes, default=0.0)
    kinds: dict[str, list[Task]] = {
        "long": [("generate_long", (one, longest)) for one in long if longest],  # first, as they take longest
        "single": [("generate_singly", (part,)) for part in chunks(requests[:shown], 4)],
        "batched": [("generate", (part,)) for part in chunks(requests[shown:], options.batch)],
        "free": [("generate", (part,)) for part in chunks(free, options.batch)],
        "reconstructed": [("reconstruct", (part, range(shown))) for part in chunks(held_out, options.batch)],
        "listened": [("listen", (part,)) for part in chunks(training, 100)],
    }
    results = iter(run_tasks(settings, [task for tasks in kinds.values() for task in tasks]))
    done = {kind: [next(results) for _ in tasks] for kind, tasks in kinds.items()}
    content = summarise(
        Measurements(
            training=training,
            listened=done["listened"],
            held_out=held_out,
            reconstructed=done["reconstructed"],
            requests=requests,
            made=[made for part in done["single"] + done["batched"] for made in part],
            free_form=free,
            free_genres=[genre for _, genre in own_words],
            made_free=[made for part in done["free"] for made in part],
            shown=shown,
            made_long=done["long"],
            long_minutes=options.long_minutes,
            segment_seconds=settings.corpus.segment_seconds,
        )
    )
    content = {**content, "config": settings.model_dump(mode="json"), "wall_s": round(time.perf_counter() - start, 1)}
    storage.write_json(storage.join(options.out, "evaluation.json"), content)
    return content


def main() -> None:
    with exit_on_user_error():
        settings = config.parse_arguments(__doc__ or "", "evaluate")
        if settings.evaluate.systems or settings.evaluate.audio:
            compare(settings)
            print(storage.read_text(storage.join(settings.evaluate.out, "comparison.md")), end="")
            return
        content = evaluate(settings)
        for name, row in content["adherence"].items():
            print(f"{name:14s}" + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
        print(f"wrote {storage.join(settings.evaluate.out, 'evaluation.json')} in {content['wall_s']} s")


if __name__ == "__main__":
    main()
