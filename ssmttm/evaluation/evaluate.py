"""One evaluation: systems in, what was heard of them, figures out.

Two selections of it: `evaluate` hears a bundle on held-out prompts beside the real segments and their true codes, on as
many workers as there are (evaluation.json); `compare` hears any systems on any prompts, one after the other in process,
so that their times compare (comparison.json). Figures of either are `intervals.Figure`s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.cluster import connect
from ssmttm.codec.store import load_codec
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.evaluation import adherence
from ssmttm.evaluation.clips import Clip, read_folder
from ssmttm.evaluation.embedding_files import find_embeddings, read_embeddings
from ssmttm.evaluation.figures import Yardstick, by_controls, figures_of, following, own_figures
from ssmttm.evaluation.heard import Ears, Heard, hear, hear_background, read
from ssmttm.evaluation.intervals import Figure
from ssmttm.evaluation.novelty import CodeRuns, Neighbours
from ssmttm.evaluation.prompts import Prompt, choose, free_form, held_out_tracks, read_prompts, segments
from ssmttm.evaluation.published import Clap, Tagger
from ssmttm.evaluation.results import Held, evaluation_content
from ssmttm.evaluation.systems import ASKED, REFERENCE, Studio, clips_of, device_of, last_part, systems_of
from ssmttm.hardware import torch_threads
from ssmttm.sources.readers import read_source
from ssmttm.tokens.schema import open_dataset, read_checked, shards_of

HELD_OUT = "held-out"
TRAINING_PART = 100  # segments heard in one task

Task = tuple[str, tuple[Any, ...]]  # a Studio's method and its arguments


def parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def run_tasks(settings: Config, tasks: list[Task]) -> list[Any]:
    """Results of the tasks, in their order: from a worker per CPU (or GPU), or one in process (train.launch=local)."""
    if settings.train.launch != "local":
        connect()
    progress = tqdm(total=len(tasks), desc="evaluate", unit="task", mininterval=2)
    results: list[Any] = [None] * len(tasks)
    if settings.train.launch == "local":
        with torch_threads():  # as in the actors
            studio = Studio(settings)
            for i, (method, arguments) in enumerate(tasks):
                results[i] = getattr(studio, method)(*arguments)
                progress.update()
        return results

    import ray
    from ray.util import ActorPool

    class Actor:
        def __init__(self, settings: Config):
            torch.set_num_threads(1)
            self.studio = Studio(settings)

        def run(self, i: int, method: str, arguments: tuple[Any, ...]) -> tuple[int, Any]:
            return i, getattr(self.studio, method)(*arguments)

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


def _described(kind: str, title: str, heard: Heard, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """A system as the files hold it."""
    figures_json = {name: figure.as_json() for name, figure in figures.items()}
    return {"kind": kind, "title": title, "n": heard.count, "figures": figures_json}


def evaluate(settings: Config) -> dict[str, Any]:
    """Hear a bundle on held-out prompts and write evaluation.json, whose content is returned.

    Raises:
        UserError: if a mark of `evaluate.long_minutes` is too early or `evaluate.out` cannot be written, or see
            `segments`.
    """
    start, options = time.perf_counter(), settings.evaluate
    storage.check_writable(storage.join(options.out, "evaluation.json"))
    if any(60 * minutes < settings.corpus.segment_seconds for minutes in options.long_minutes):
        raise UserError(f"evaluate.long_minutes={list(options.long_minutes)} has a mark before the first segment's end")
    training, held_out = segments(settings)
    if len(held_out) < options.clips:
        print(f"evaluate: the tokens hold {len(held_out)} held-out clips, fewer than evaluate.clips={options.clips}")
    shown, longest = min(options.shown, len(held_out)), 60 * max(options.long_minutes, default=0.0)
    own_words = free_form(options.free_form)
    others = [held_out[i] for i in adherence.derangement(len(held_out))]
    asked = [replace(prompt, recording=None, codes_KT=None) for prompt in held_out]  # what is sent to be made
    long = [replace(one, id=one.id.replace(HELD_OUT, "long")) for one in asked[: options.long_pieces if longest else 0]]

    def made(method: str, prompts: Sequence[Prompt], size: int, first: int = 0) -> list[Task]:
        """Seeds count on from part to part."""
        begin = options.seed + first
        return [(method, (part, begin + i * size)) for i, part in enumerate(parts(prompts, size))]

    tasks: dict[str, list[Task]] = {
        "long": [("made_long", (one, options.seed + i, longest)) for i, one in enumerate(long)],  # they take longest
        "generated": [
            *made("made_singly", asked[:shown], 4),
            *made("made", asked[shown:], options.batch, shown),
        ],
        "free": made("made", own_words, options.batch),
        "held_out": [("held_out", (part, shown)) for part in parts(list(enumerate(held_out)), options.batch)],
        "asked": [
            ("asked", (*zip(*part, strict=True), options.seed + i * options.batch))
            for i, part in enumerate(parts(list(zip(held_out, others, strict=True)), options.batch))
        ],
        "training": [("training", (part,)) for part in parts(training, TRAINING_PART)],
        "title": [("title", ())],
    }
    results = iter(run_tasks(settings, [task for of_kind in tasks.values() for task in of_kind]))
    done = {kind: [next(results) for _ in of_kind] for kind, of_kind in tasks.items()}
    background = Heard.joined(done["training"])
    background = replace(background, moments=[reduce(add, background.moments)])
    probes = adherence.Probes(list(background.statistics), [one.tags for one in training])
    yardstick = Yardstick(options.seed, options.draws, background, probes=probes)
    heard = {name: Heard.joined([part[name] for part in done["held_out"]]) for name in done["held_out"][0]}
    heard["generated"] = Heard.joined(done["generated"])
    tags = [one.tags for one in held_out]
    figures = {name: following(one, yardstick, tags) for name, one in heard.items()}
    figures["shuffled"] = following(heard["generated"], yardstick, [one.tags for one in others])
    ((title, codebooks),) = done["title"]
    content = evaluation_content(
        Held(settings, codebooks, held_out, own_words, heard, Heard.joined(done["free"]), done["long"], shown),
        probes,
        figures,
    )
    content["systems"] = {
        name: _described(name, title, heard.get(name, heard["generated"]), of) for name, of in figures.items()
    }
    asked_by = {name: [clip for part in done["asked"] for clip in part[name]] for name in done["asked"][0]}
    by_system = {name: by_controls(clips, yardstick) for name, clips in asked_by.items()}
    if by_system[ASKED]:
        content["controls"] = {
            figure: {name: of[figure].as_json() for name, of in by_system.items() if figure in of}
            for figure in by_system[ASKED]
        }
    content |= {"config": settings.model_dump(mode="json"), "wall_s": round(time.perf_counter() - start, 1)}
    storage.write_json(storage.join(options.out, "evaluation.json"), content)
    return content


def coder_of(tokens: str, device: str) -> Callable[[Audio], np.ndarray]:
    """What gives a clip its coarse codes [T], by the codec of token shards."""
    reference = open_dataset(tokens).content["codec"]
    codec = load_codec(reference["uri"]).eval().to(device)
    if codec.fingerprint() != reference["fingerprint"]:
        raise UserError(f"{reference['uri']} is not the codec that {tokens} was made with; put that one there")

    @torch.inference_mode()
    def code(clip: Audio) -> np.ndarray:
        mono = audio.resample(audio.to_mono(clip), codec.sample_rate)
        return codec.encode(torch.from_numpy(mono.samples)[None].to(device))[0, 0].cpu().numpy()

    return code


def training_runs(tokens: str) -> CodeRuns:
    """Runs of the coarse codes of a dataset's train split."""
    dataset = open_dataset(tokens)

    def codes() -> Iterator[np.ndarray]:
        for shard in shards_of(dataset):
            table = read_checked(shard, ("split", "frames", "codes"))
            for row in table.to_pylist():
                if row["split"] == "train":
                    yield np.frombuffer(row["codes"], np.int16)[: row["frames"]]

    return CodeRuns(codes(), f"codec {dataset.content['codec']['fingerprint']}")


def _yardstick(settings: Config, ears: Ears, prompts: Sequence[Prompt]) -> Yardstick:
    options = settings.evaluate
    reference: Heard | None = None
    real = [Clip(one.id, one.recording.audio, one.text) for one in prompts if one.recording]
    name = "validation tracks of the corpus"
    if options.reference is not None:
        name, real = last_part(options.reference), read_folder(options.reference)
    if real or options.reference is not None:
        reference = hear(name, read(name, real, options.seconds), ears)
    neighbours = None
    if options.training is not None:
        tracks = [one for one in read_source(options.training, settings.corpus) if one.split == "train"]
        if not tracks:
            raise UserError(f"evaluate.training={options.training} has no tracks in its train split")
        clips = read("training clips", [Clip(one.id, one.audio) for one in tracks], options.seconds)
        neighbours = Neighbours(hear_background("training clips", (clip.audio for clip in clips)).statistics)
    given = find_embeddings(options.embeddings, REFERENCE) if options.embeddings is not None else None
    return Yardstick(
        options.seed,
        options.draws,
        reference,
        ears.clap,
        ears.tagger.name if ears.tagger else "",
        neighbours,
        training_runs(options.training_codes) if options.training_codes else None,
        last_part(options.embeddings or ""),
        read_embeddings(given) if given else None,
    )


def compare(settings: Config) -> dict[str, Any]:
    """Make, hear and compare; writes comparison.json and under each system's name the clips it made to `evaluate.out`.
    Returns the content of comparison.json.

    Raises:
        UserError: if there is nothing to compare, an input is missing or malformed, or `evaluate.out` cannot be
            written.
    """
    options, device = settings.evaluate, device_of(settings)
    storage.check_writable(storage.join(options.out, "comparison.json"))
    systems = systems_of(options)
    if options.prompts == HELD_OUT:
        prompts = held_out_tracks(settings)
    else:
        prompts = read_prompts(options.prompts, options.prompt_subset)
    prompts = choose(prompts, options.clips, options.seed)
    if len(prompts) < 2:
        raise UserError(f"evaluate.prompts={options.prompts} leaves {len(prompts)} prompts; figures need at least two")
    ears = Ears(
        Clap(options.clap, device) if options.clap else None,
        Tagger(options.tagger, device) if options.tagger else None,
        coder_of(options.training_codes, device) if options.training_codes else None,
    )
    yardstick = _yardstick(settings, ears, prompts)
    results = {}
    for name, uri in systems.items():
        kind, title, clips = clips_of(name, uri, prompts, settings)
        heard = hear(name, read(name, clips, options.seconds), ears)
        given = find_embeddings(options.embeddings, name) if options.embeddings else None
        figures = figures_of(heard, yardstick, read_embeddings(given) if given else None)
        results[name] = _described(kind, title, heard, figures)
    described = None
    if (reference := yardstick.reference) is not None:
        own = {name: figure.as_json() for name, figure in own_figures(reference, yardstick).items()}
        described = {"name": reference.name, "n": reference.count, "figures": own}
    content = {
        "prompts": {"name": options.prompts.rsplit("/", 1)[-1], "n": len(prompts)},
        "reference": described,
        "seconds": options.seconds,
        "draws": options.draws,
        "seed": options.seed,
        "systems": results,
        "config": settings.model_dump(mode="json"),
    }
    storage.write_json(storage.join(options.out, "comparison.json"), content)
    return content
