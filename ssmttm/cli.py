"""The console command `ssmttm`. Everything heavy is imported by the verb that needs it, so help comes at once."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ssmttm.errors import UserError, exit_on_user_error

DEFAULT_BUNDLE = "runs/demo/bundle"
# Steps of a smaller model are too short to share: measured with 5 M parameters, a second thread gains nothing on an
# idle machine and makes it ten times slower on a busy one. It also makes the bytes the same on any number of cores.
ONE_THREAD_PARAMETERS = 50_000_000

app = typer.Typer(
    help="Music from text, with state-space models: compose a corpus, train, generate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(help="Make and check corpora.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")


@app.command(epilog='Example: ssmttm generate "calm piano in a minor key, slow" --seconds 10 --seed 1 --out calm.wav')
def generate(
    prompt: Annotated[str, typer.Argument(help="What the music should be like, in English.")],
    out: Annotated[str, typer.Option(help="File to write; .wav, .flac or .ogg.")] = "music.wav",
    seconds: Annotated[float, typer.Option(help="Length of the clip.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same file; drawn when left out.")] = None,
    bundle: Annotated[str, typer.Option(help="Folder or URI of a bundle.", envvar="SSMTTM_BUNDLE")] = DEFAULT_BUNDLE,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt; 1: unguided.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Above 1 wilder, below 1 tamer, 0 greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest codes; 0: all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps of the second stage.")] = None,
    precision: Annotated[
        str, typer.Option(help="Of the language model's matrices: fp32, bf16 or int8; fewer bits are faster.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the decoding first: pays for long pieces.")
    ] = False,
) -> None:
    """Turn a prompt into an audio file.

    Options left out take the bundle's own defaults. The file's metadata says that it is AI-generated, by which model,
    from which prompt and seed.
    """
    from ssmttm.audio import FORMATS

    extension = out.rsplit(".", 1)[-1].lower()
    if extension not in FORMATS:
        raise UserError(f"cannot write {out}; end its name in one of: {', '.join('.' + name for name in FORMATS)}")

    import time

    import numpy as np
    import torch
    from tqdm import tqdm

    from ssmttm.audio import Audio
    from ssmttm.generation.generator import Generator
    from ssmttm.generation.request import check_seed

    seed = check_seed(seed)
    generator = Generator.load(bundle, precision=precision)
    if sum(tensor.numel() for tensor in generator.bundle.lm.state_dict().values()) < ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    if compiled:
        generator.compile()
    start = time.perf_counter()
    pieces: list[np.ndarray] = []
    stream = generator.stream(prompt, seconds, seed, guidance, temperature, top_k, steps)
    with tqdm(total=round(seconds, 2), unit="s", desc="music", leave=False, disable=None) as bar:
        for piece in stream:
            pieces.append(piece.samples)
            bar.update(round(piece.seconds, 2))
    audio = Audio(np.concatenate(pieces, axis=1), generator.sample_rate)
    factor = audio.seconds / (time.perf_counter() - start)
    generator.save(out, audio, prompt, seed)
    print(f"{out}: {audio.seconds:.2f} s, seed {seed}, {factor:.1f}x real time, {generator.model_id}")


@app.command(epilog="Example: ssmttm export runs/stage1 runs/stage2 --out s3://bucket/my-bundle")
def export(
    stage1_run: Annotated[str, typer.Argument(help="Folder or URI of a finished stage-1 run.")],
    stage2_run: Annotated[str, typer.Argument(help="Folder or URI of a finished stage-2 run.")],
    out: Annotated[str, typer.Option(help="Folder or URI of the bundle to write.")],
) -> None:
    """Gather two trained stages, their codec and the attribution of their data into a bundle."""
    from ssmttm.generation.bundle import read_model_id
    from ssmttm.training.export import export_bundle

    export_bundle(stage1_run, stage2_run, out)
    print(f"{out}: {read_model_id(out)}")


@corpus_app.command(epilog="Example: ssmttm corpus compose --hours 1 --out runs/corpus --seed 0")
def compose(
    out: Annotated[str, typer.Option(help="Folder to write.")],
    hours: Annotated[float, typer.Option(help="Hours of music to compose.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    clip_seconds: Annotated[float, typer.Option(help="Length of a piece.")] = 10.0,
    captions: Annotated[int, typer.Option(help="Captions written for each piece.")] = 6,
) -> None:
    """Compose a corpus of captioned pieces in eight genres and render it with a General MIDI soundfont."""
    from ssmttm.corpus.composer import compose_corpus

    tracks = compose_corpus(out, hours, seed, clip_seconds, captions)
    print(f"{out}: {len(tracks)} pieces, {sum(track.duration_s for track in tracks) / 3600:.2f} hours")


@corpus_app.command(epilog="Example: ssmttm corpus check runs/demo/corpus")
def check(corpus: Annotated[str, typer.Argument(help="Folder or URI with a manifest.jsonl.")]) -> None:
    """Count a corpus by split, licence and genre, and look for files that are missing; exit code 1 if any are."""
    from ssmttm.corpus.manifest import read_manifest

    tracks = read_manifest(corpus)
    _print_hours("split", [(track.split, track.duration_s) for track in tracks])
    _print_hours("licence", [(track.licence, track.duration_s) for track in tracks])
    genres = [(str(track.tags["genre"]), track.duration_s) for track in tracks if "genre" in track.tags]
    if genres:
        _print_hours("genre", genres)
    problems = _problems(corpus, tracks)
    for problem in problems[:20]:
        print(problem)
    if problems:
        print(f"{len(problems)} problems")
        raise typer.Exit(1)
    print(f"{len(tracks)} tracks, all files are there")


def _print_hours(name: str, entries: list[tuple[str, float]]) -> None:
    print(f"{name:24} tracks    hours")
    for value in sorted({entry for entry, _ in entries}):
        seconds = [s for entry, s in entries if entry == value]
        print(f"  {value:22} {len(seconds):6} {sum(seconds) / 3600:8.2f}")


def _problems(corpus: str, tracks: list[Any]) -> list[str]:
    from ssmttm import storage

    present = set(storage.list_files(corpus))
    root = corpus.rstrip("/") + "/"
    problems = [f"no tracks in {corpus}"] if not tracks else []
    problems += [f"missing file: {track.audio}" for track in tracks if track.audio.removeprefix(root) not in present]
    problems += [f"no caption: {track.id}" for track in tracks if not any(c.strip() for c in track.captions)]
    return problems


@app.command(epilog="Example: ssmttm doctor --preset mini")
def doctor(
    preset: Annotated[str, typer.Option(help="Preset whose models are counted.")] = "mini",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine has: versions, devices, precision, soundfont, text encoder, model sizes."""
    import json

    from ssmttm.doctor import examine

    findings = examine(preset)
    if as_json:
        print(json.dumps(findings, indent=2))
        return
    for name, value in findings.items():
        print(f"{name}:")
        for key, entry in value.items():
            shown = f"{entry:,}" if isinstance(entry, int) else f"{entry:.4g}" if isinstance(entry, float) else entry
            print(f"  {key:36} {shown}")


def main() -> None:
    """Entry point: a user's mistake becomes one line on stderr and exit code 2."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers draws one while it loads the text encoder
    with exit_on_user_error():
        app()
