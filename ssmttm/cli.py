"""The console command `ssmttm`. Everything heavy is imported by the verb that needs it, so help comes at once."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ssmttm.cli_corpus import corpus_app
from ssmttm.conditions.handles import WORDS
from ssmttm.engine.request import BOUNDS, MusicRequest
from ssmttm.errors import UserError, exit_on_user_error

app = typer.Typer(
    help="Music from text, with state-space models: compose a corpus, train, generate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(corpus_app, name="corpus")


HANDLES, DRAWING = "What the music is like", "How it is drawn"


class _Grouped(typer.core.TyperCommand):
    """A command whose help lists its options under the headings of their panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


Bundle = Annotated[
    str | None,
    typer.Option(help="Folder or URI of a bundle; the package's own when left out.", envvar="SSMTTM_BUNDLE"),
]


def _asked(name: str, panel: str | None = None) -> Any:
    """The option of a request's field."""
    told = BOUNDS[name].help
    return typer.Option(help=f"{told[0].upper()}{told[1:]}.", rich_help_panel=panel)


def _word(name: str, metavar: str, help: str | None = None) -> Any:
    """The option of a word that is no number."""
    told = WORDS[name]
    shown = f"{help or told.takes}" + ("." if help else f'; e.g. "{told.example}".')
    return typer.Option(metavar=metavar, help=f"{shown[0].upper()}{shown[1:]}", rich_help_panel=HANDLES)


def _text(given: str) -> str:
    """Text from the terminal, whose encoding may not know some of its bytes."""
    if any("\udc80" <= one <= "\udcff" for one in given):
        return os.fsencode(given).decode("utf-8", "surrogateescape")
    return given


def _weighted(option: str) -> tuple[str, float]:
    """TEXT=WEIGHT, of weight 1 where none is given."""
    text, sign, weight = option.rpartition("=")
    try:
        return (_text(text), float(weight)) if sign else (_text(option), 1.0)
    except ValueError:
        raise UserError(f"--prompt {option} ends in no number; give TEXT=WEIGHT") from None


def _value(text: str) -> Any:
    """What a value on the command line means: on, off, JSON; anything else is text."""
    import json

    try:
        return {"on": True, "off": False, "none": None}[text] if text in ("on", "off", "none") else json.loads(text)
    except ValueError:
        return text


def _pairs(option: str, parts: list[str]) -> dict[str, Any]:
    """What texts of the form NAME=VALUE say."""
    pairs = {}
    for part in parts:
        name, sign, value = part.partition("=")
        if not (name.strip() and sign):
            raise UserError(f"--{option} {part.strip()} names no value; give NAME=VALUE")
        pairs[name.strip()] = _value(value.strip())
    return pairs


def _controls(control: list[str], at: list[str]) -> dict[str, Any] | list[dict[str, Any]]:
    """Controls by name, or changes of the form TIME: WORD=VALUE, ..."""
    if control and at:
        raise UserError("--control holds for the whole piece, and --at for a part of it; give one of them")
    changes = []
    for option in at:
        time, _, words = option.partition(":")
        when = time.strip().removesuffix("s").strip()
        changes.append({"at": _value(when), **_pairs("at", words.split(","))})
    return changes or _pairs("control", control)


@app.command(
    cls=_Grouped,
    epilog='Example: ssmttm generate "calm solo piano, slow, in A minor" --seconds 10 --seed 1 --out calm.wav; or '
    'ssmttm generate "funk" --bpm 96.5 --bars 8 --chords "Am F | C G7/B | %" --drums off --at "bar 5: drums=on"',
)
def generate(
    prompt: Annotated[str, typer.Argument(help="What the music should be like, in English.")] = "",
    mix: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="TEXT=WEIGHT",
            help="One more prompt, with a weight; that of the first argument is 1. May be given again.",
        ),
    ] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="What to lead away from.")] = None,
    out: Annotated[str, typer.Option(help="File to write; .wav, .flac, .ogg or .mp3.")] = "music.wav",
    seconds: Annotated[float | None, _asked("seconds")] = None,
    seed: Annotated[int | None, _asked("seed")] = None,
    bundle: Bundle = None,
    bpm: Annotated[float | None, _asked("bpm", HANDLES)] = None,
    meter: Annotated[str | None, _word("meter", "METER")] = None,
    bars: Annotated[float | None, _asked("bars", HANDLES)] = None,
    chords: Annotated[str | None, _word("chords", "CHORDS")] = None,
    key: Annotated[str | None, _word("key", "KEY")] = None,
    drums: Annotated[str | None, _word("drums", "on|off", "whether there are drums")] = None,
    bass: Annotated[str | None, _word("bass", "on|off", "whether there is a bass")] = None,
    density: Annotated[float | None, _asked("density", HANDLES)] = None,
    brightness: Annotated[float | None, _asked("brightness", HANDLES)] = None,
    melody: Annotated[
        str | None, _word("melody", "FILE", "a line to follow: MIDI (.mid), or sound of one voice, sung or played")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIME: WORD=VALUE, ...",
            rich_help_panel=HANDLES,
            help='Ask for something else from a time on: seconds, "bar 5" or "bar 5 beat 3". May be given again.',
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            rich_help_panel=HANDLES,
            help="A control by its own name; VALUE may be JSON. May be given again.",
        ),
    ] = None,
    guidance: Annotated[float | None, _asked("guidance", DRAWING)] = None,
    control_guidance: Annotated[float | None, _asked("control_guidance", DRAWING)] = None,
    temperature: Annotated[float | None, _asked("temperature", DRAWING)] = None,
    top_k: Annotated[int | None, _asked("top_k", DRAWING)] = None,
    top_p: Annotated[float | None, _asked("top_p", DRAWING)] = None,
    steps: Annotated[int | None, _asked("steps", DRAWING)] = None,
    precision: Annotated[
        str,
        typer.Option(
            rich_help_panel=DRAWING,
            help="Of the language model's matrices: fp32, bf16 or int8; fewer bits are faster.",
        ),
    ] = "fp32",
    compiled: Annotated[
        bool,
        typer.Option("--compile", rich_help_panel=DRAWING, help="Compile the decoding first: pays for long pieces."),
    ] = False,
) -> None:
    """Turn a prompt into an audio file.

    Options left out take the bundle's own defaults. The file's metadata says that it is AI-generated, by which model,
    from what and which seed. `ssmttm doctor` says what a bundle can be asked by besides text.
    """
    from ssmttm import storage
    from ssmttm.audio import extension_of

    extension = extension_of(out)
    storage.check_writable(out)

    import time

    import numpy as np
    from tqdm import tqdm

    from ssmttm.audio import Audio
    from ssmttm.engine.generator import Generator

    if not (prompt or mix):
        raise UserError("the prompt is empty; describe the music, e.g. 'calm solo piano, slow'")
    request = MusicRequest(
        _text(prompt),
        seconds,
        seed,
        guidance,
        temperature,
        top_k,
        steps,
        top_p,
        controls=_controls(control or [], at or []),
        bpm=bpm,
        meter=meter,
        bars=bars,
        chords=chords,
        key=key,
        drums=None if drums is None else _value(drums),
        bass=None if bass is None else _value(bass),
        density=density,
        brightness=brightness,
        melody=melody,
        prompts=[_weighted(one) for one in mix or []],
        negative=None if negative is None else _text(negative),
        control_guidance=control_guidance,
    )
    generator = Generator.load(bundle, precision=precision)
    stream = generator.stream(request)
    if compiled:
        generator.compile()
    start = time.perf_counter()
    pieces: list[np.ndarray] = []
    length = stream.request.seconds
    assert length is not None
    if extension == "wav":
        storage.check_writable(out, 2 * round(length * generator.sample_rate))
    with tqdm(total=round(length, 2), unit="s", desc="music", leave=False, disable=None) as bar:
        for piece in stream:
            pieces.append(piece.samples)
            bar.update(round(piece.seconds, 2))
    audio = Audio(np.concatenate(pieces, axis=1), generator.sample_rate)
    factor = audio.seconds / (time.perf_counter() - start)
    made = stream.request.seed
    assert made is not None
    generator.save(out, audio, request, made)
    print(f"{out}: {audio.seconds:.2f} s, seed {made}, {factor:.1f}x real time, {generator.model_id}")


@app.command(epilog="Example: ssmttm export runs/stage1 runs/stage2 --out s3://bucket/my-bundle --register my-model")
def export(
    stage1_run: Annotated[str, typer.Argument(help="Folder or URI of a finished stage-1 run.")],
    out: Annotated[str, typer.Option(help="Folder or URI of the bundle to write.")],
    stage2_run: Annotated[
        str | None,
        typer.Argument(help="Folder or URI of a finished stage-2 run; none if stage 1 models several codebooks."),
    ] = None,
    stage1_checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint to take, as step-000100; the run need not be finished.")
    ] = None,
    stage2_checkpoint: Annotated[str | None, typer.Option(help="The same of stage 2.")] = None,
    register: Annotated[str | None, typer.Option(help="Name of a model in MLflow's registry to add to.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow of that registry; where stage 1 was tracked when left out.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="evaluation.json whose figures of prompt following go on the model card.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the models' matrices in float16: half the size.")] = False,
) -> None:
    """Gather the trained stages, their codec and the attribution of their data into a bundle."""
    from ssmttm import storage
    from ssmttm.bundle.load import read_model_id
    from ssmttm.evaluation.results import card_figures
    from ssmttm.training.export import export_bundle

    export_bundle(
        stage1_run,
        stage2_run,
        out,
        None if evaluation is None else card_figures(storage.read_json(evaluation)),
        stage1_checkpoint=stage1_checkpoint,
        stage2_checkpoint=stage2_checkpoint,
        register=register,
        tracking_uri=tracking_uri,
        half=half,
    )
    print(f"{out}: {read_model_id(out)}")


@app.command(epilog="Example: ssmttm verify runs/demo/bundle s3://bucket/tokens")
def verify(
    uris: Annotated[
        list[str], typer.Argument(help="Folder or URI of a bundle, codec, dataset, run, checkpoint, manifest or study.")
    ],
) -> None:
    """Say of anything that ssmttm wrote whether it is whole, a line each: what is listed is there, as its digests say.

    What it is shows by itself; of a run, its checkpoints and weights are judged too, and of any other folder what lies
    in it. Nothing is changed. Exit code 0: all is whole; 1: something is damaged or unfinished, and the line names the
    file and the remedy; 2: nothing of ssmttm's lies there.
    """
    from ssmttm.cli_verify import verify as judge

    damaged = False
    for uri in uris:
        for verdict in judge(uri):
            print(verdict, flush=True)
            damaged |= bool(verdict.problem)
    if damaged:
        raise typer.Exit(1)


@app.command(epilog="Example: ssmttm listen runs/compare/ours runs/compare/musicgen --answers answers.sqlite")
def listen(
    folders: Annotated[
        list[str] | None, typer.Argument(help="A folder of clips per system, files of one prompt named alike.")
    ] = None,
    answers: Annotated[str, typer.Option(help="File the answers are kept in (sqlite).")] = "answers.sqlite",
    port: Annotated[int, typer.Option(help="Where the page is served.")] = 8010,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every.")] = "127.0.0.1",
    pairs: Annotated[int, typer.Option(min=0, help="Pairs that a listener compares.")] = 10,
    ratings: Annotated[int, typer.Option(min=0, help="Clips that a listener rates from 1 to 5.")] = 10,
    results: Annotated[
        str | None, typer.Option(help="Serve nothing; write what was answered as RESULTS.json, .md and .html.")
    ] = None,
) -> None:
    """Serve a blind listening test of several systems, or say what its listeners answered.

    Clips are brought to one loudness; order and sides are drawn for each listener; anchors and checks are among them.
    Nothing is kept of a listener but the answers.
    """
    from ssmttm import storage
    from ssmttm.evaluation import listening_app
    from ssmttm.evaluation.listening import TrialCounts
    from ssmttm.reports import listening

    if results is not None:
        for extension in ("json", "md", "html"):
            storage.check_writable(f"{results}.{extension}")
        content = listening.write(listening_app.results(answers), results)
        print(f"{results}.json, .md, .html: {content['sessions']} sessions")
        return
    if not folders:
        raise UserError("nothing to listen to; give a folder of clips for each system")
    storage.check_writable(answers)
    print(f"http://{host}:{port} (answers go to {answers}; stop with Ctrl-C)", flush=True)
    listening_app.serve(folders, answers, host, port, TrialCounts(pairs, ratings), listening.page_of_test())


@app.command(epilog="Example: ssmttm doctor --preset mini")
def doctor(
    preset: Annotated[str, typer.Option(help="Preset whose models are counted.")] = "mini",
    bundle: Bundle = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine has: versions, devices, precision, soundfont, text encoder, model sizes; and what a bundle
    can be asked by."""
    import json

    from ssmttm.cli_doctor import examine

    findings = examine(preset, bundle)
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
