"""Several systems on the same prompts: bundles, published MusicGen checkpoints and folders of audio, one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.codec.store import load_codec
from ssmttm.config import Config, EvaluateConfig
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError
from ssmttm.evaluation.clap import Clap
from ssmttm.evaluation.clip_folder import Clip, read_folder, write_list
from ssmttm.evaluation.embedding_files import find_embeddings, read_embeddings
from ssmttm.evaluation.heard import Ears, Heard, hear
from ssmttm.evaluation.musicgen import MusicGen
from ssmttm.evaluation.novelty import CodeRuns, Neighbours
from ssmttm.evaluation.prompt_sets import Prompt, choose, read_prompts
from ssmttm.evaluation.system_figures import Setting, figures_of, log_mel_space, own_figures
from ssmttm.evaluation.tagger import Tagger
from ssmttm.reports import comparison as comparison_page
from ssmttm.sources.readers import read_source
from ssmttm.tokens.schema import COMMIT_NAME, read_columns, shard_names

HELD_OUT = "held-out"
REFERENCE = "reference"
WARM_UP_S = 1.0


class MakesClips(Protocol):
    def generate(self, prompt: str, seconds: float, seed: int) -> Audio: ...


def kind_of(uri: str) -> str:
    """`bundle`, `MusicGen` or `folder of audio`, by what lies there.

    Raises:
        UserError: if nothing does, or a checkpoint of another kind.
    """
    names = storage.list_names(uri)
    if "bundle.json" in names:
        return "bundle"
    if "config.json" in names:
        model_type = storage.read_json(storage.join(uri, "config.json")).get("model_type")
        if model_type != "musicgen":
            raise UserError(f"{uri} is a checkpoint of '{model_type}'; systems are bundles, MusicGen or audio")
        return "MusicGen"
    if not names:
        raise UserError(f"{uri} is empty or missing; systems are bundles, MusicGen checkpoints or folders of audio")
    return "folder of audio"


def systems_of(options: EvaluateConfig) -> dict[str, str]:
    """What is compared, by name.

    Raises:
        UserError: if `evaluate.audio` and a system share a name, or a name cannot be a folder's.
    """
    systems = dict(options.systems)
    if options.audio is not None:
        name = options.audio.rstrip("/").rsplit("/", 1)[-1]
        if name in systems:
            raise UserError(f"evaluate.audio and evaluate.systems.{name} share a name; rename one")
        systems[name] = options.audio
    for name in systems:
        if name == REFERENCE or not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"'{name}' cannot name a system; use letters, digits, - and _, and not '{REFERENCE}'")
    return {name: storage.absolute(uri) for name, uri in systems.items()}


def held_out(settings: Config) -> list[tuple[Prompt, Clip]]:
    """The first captions of the corpus' validation tracks, each beside its track."""
    tracks = [track for track in read_source(settings.corpus.source, settings.corpus) if track.split == "val"]
    return [
        (Prompt(track.id, track.captions[0]), Clip(track.id, track.audio, track.captions[0]))
        for track in tracks
        if track.captions
    ]


def make_clips(
    system: MakesClips, title: str, prompts: Sequence[Prompt], folder: str, seconds: float, seed: int
) -> list[Clip]:
    """Make and write a clip for each prompt, one at a time, each timed; a short one before them is not counted."""
    system.generate(prompts[0].text, min(WARM_UP_S, seconds), seed)
    clips = []
    for i, prompt in enumerate(tqdm(prompts, desc=title, unit="clip", leave=False, disable=None)):
        start = time.perf_counter()
        made = system.generate(prompt.text, seconds, seed + i)
        wall_s = time.perf_counter() - start
        path = storage.join(folder, f"{i:04d}.flac")
        metadata = {"ai_generated": True, "model": title, "prompt": prompt.text, "seed": seed + i}
        audio.write(path, made, metadata)
        clips.append(Clip(prompt.id, path, prompt.text, seed + i, made.seconds, wall_s))
    write_list(folder, clips, title)
    return clips


def _clips_of(name: str, uri: str, prompts: Sequence[Prompt], settings: Config) -> tuple[str, str, list[Clip]]:
    """Kind, title and clips of a system."""
    options, device = settings.evaluate, "cuda" if settings.train.use_gpu else "cpu"
    kind = kind_of(uri)
    if kind == "folder of audio":
        return kind, uri.rstrip("/").rsplit("/", 1)[-1], read_folder(uri, {one.id: one.text for one in prompts})
    system: Any = Generator.load(uri, device) if kind == "bundle" else MusicGen(uri, device)
    title = system.model_id if kind == "bundle" else system.name
    folder = storage.join(options.out, name)
    return kind, title, make_clips(system, title, prompts, folder, options.seconds, options.seed)


def coder_of(tokens: str, device: str) -> Callable[[Audio], np.ndarray]:
    """What gives a clip its coarse codes [T], by the codec of token shards."""
    reference = storage.read_commit(tokens, COMMIT_NAME, verify=False)["codec"]
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
    dataset = storage.read_commit(tokens, COMMIT_NAME, verify=False)

    def codes() -> Iterator[np.ndarray]:
        for shard in shard_names(dataset):
            table = read_columns(storage.join(tokens, shard), ("split", "frames", "codes"))
            for row in table.to_pylist():
                if row["split"] == "train":
                    yield np.frombuffer(row["codes"], np.int16)[: row["frames"]]

    return CodeRuns(codes(), f"codec {dataset['codec']['fingerprint']}")


def _setting(settings: Config, ears: Ears, pairs: Sequence[tuple[Prompt, Clip]]) -> Setting:
    options = settings.evaluate
    reference: Heard | None = None
    if options.reference is not None:
        reference = hear(options.reference.rstrip("/").rsplit("/", 1)[-1], read_folder(options.reference), ears)
    elif pairs:
        reference = hear("validation tracks of the corpus", [clip for _, clip in pairs], ears)
    neighbours = None
    if options.training is not None:
        tracks = [one for one in read_source(options.training, settings.corpus) if one.split == "train"]
        if not tracks:
            raise UserError(f"evaluate.training={options.training} has no tracks in its train split")
        training = hear("training clips", [Clip(one.id, one.audio) for one in tracks], Ears(options.seconds))
        neighbours = Neighbours(training.statistics)
    given = None
    if options.embeddings is not None:
        file = find_embeddings(options.embeddings, REFERENCE)
        given = read_embeddings(file) if file else None
    return Setting(
        options.seed,
        options.draws,
        reference,
        ears.clap,
        ears.tagger.name if ears.tagger else "",
        neighbours,
        log_mel_space(reference) if reference else None,
        training_runs(options.training_codes) if options.training_codes else None,
        (options.embeddings or "").rstrip("/").rsplit("/", 1)[-1],
        given,
    )


def _described(reference: Heard, setting: Setting) -> dict[str, Any]:
    figures = {name: figure.as_json() for name, figure in own_figures(reference, setting).items()}
    return {"name": reference.name, "n": len(reference.clips), "figures": figures}


def compare(settings: Config) -> dict[str, Any]:
    """Make, hear and compare; writes comparison.json, comparison.md and comparison.html, and under each system's name
    the clips it made, to `evaluate.out`. Returns the content of comparison.json.

    Raises:
        UserError: if there is nothing to compare, or an input is missing or malformed.
    """
    options, device = settings.evaluate, "cuda" if settings.train.use_gpu else "cpu"
    systems = systems_of(options)
    if not systems:
        raise UserError("nothing to compare; give evaluate.systems.NAME=URI or evaluate.audio=FOLDER")
    pairs: list[tuple[Prompt, Clip]] = []
    if options.prompts == HELD_OUT:
        all_pairs = held_out(settings)
        kept = {one.id for one in choose([prompt for prompt, _ in all_pairs], options.clips, options.seed)}
        pairs = [pair for pair in all_pairs if pair[0].id in kept]
        prompts = [prompt for prompt, _ in pairs]
    else:
        prompts = choose(read_prompts(options.prompts, options.prompt_subset), options.clips, options.seed)
    if len(prompts) < 2:
        raise UserError(f"evaluate.prompts={options.prompts} leaves {len(prompts)} prompts; figures need at least two")
    ears = Ears(
        options.seconds,
        Clap(options.clap, device) if options.clap else None,
        Tagger(options.tagger, device) if options.tagger else None,
        coder_of(options.training_codes, device) if options.training_codes else None,
    )
    setting = _setting(settings, ears, pairs)
    results = {}
    for name, uri in systems.items():
        kind, title, clips = _clips_of(name, uri, prompts, settings)
        heard = hear(name, clips, ears)
        file = find_embeddings(options.embeddings, name) if options.embeddings else None
        figures = figures_of(heard, setting, read_embeddings(file) if file else None)
        figures_json = {key: figure.as_json() for key, figure in figures.items()}
        results[name] = {"kind": kind, "title": title, "n": len(clips), "figures": figures_json}
    reference = setting.reference
    content = {
        "prompts": {"name": options.prompts.rsplit("/", 1)[-1], "n": len(prompts)},
        "reference": _described(reference, setting) if reference else None,
        "seconds": options.seconds,
        "draws": options.draws,
        "seed": options.seed,
        "systems": results,
        "config": settings.model_dump(mode="json"),
    }
    storage.write_json(storage.join(options.out, "comparison.json"), content)
    storage.write_text(storage.join(options.out, "comparison.md"), comparison_page.to_markdown(content))
    storage.write_text(storage.join(options.out, "comparison.html"), comparison_page.to_html(content))
    return content
