"""The verbs `ssmttm corpus ...`. Everything heavy is imported by the verb that needs it, so help comes at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ssmttm.config import CorpusConfig

PROBLEMS_PRINTED = 20

corpus_app = typer.Typer(help="Make, read and check corpora and token datasets.", no_args_is_help=True)

Format = Annotated[str, typer.Option("--format", help="Layout: auto, manifest, folder, mtg-jamendo or fma.")]
Licence = Annotated[str | None, typer.Option(help="Licence of tracks that state none, e.g. own-work.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@corpus_app.command(epilog="Example: ssmttm corpus compose --hours 1 --out runs/corpus --seed 0")
def compose(
    out: Annotated[str, typer.Option(help="Folder to write.")],
    hours: Annotated[float, typer.Option(help="Hours of music to compose, about.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    clip_seconds: Annotated[
        float | None, typer.Option(help="Excerpts of this length instead of whole pieces of 30 to 60 s.")
    ] = None,
    captions: Annotated[int, typer.Option(help="Captions written for each piece.")] = 6,
) -> None:
    """Compose a corpus of captioned pieces in eight genres, with what each plays when, and render it with the General
    MIDI soundfonts that are found."""
    from ssmttm.lease import hold
    from ssmttm.sources.composed import compose_corpus

    with hold(out, "choose another --out"):
        tracks = compose_corpus(out, hours, seed, clip_seconds, captions)
    print(f"{out}: {len(tracks)} pieces, {sum(track.duration_s for track in tracks) / 3600:.2f} hours")


@corpus_app.command(epilog="Example: ssmttm corpus scan ~/music --licence own-work")
def scan(
    source: Annotated[str, typer.Argument(help="Folder or URI of audio, in any layout that is known.")],
    out: Annotated[
        str | None, typer.Option(help="Manifest to write or add to; default: runs/NAME/manifest.jsonl.")
    ] = None,
    licence: Licence = None,
    layout: Format = "auto",
) -> None:
    """Write down what a source holds as a manifest, to be looked at, edited, and preprocessed as corpus.source.

    Lengths that are not stated are read from the files. Entries that could not be understood are named and left out. A
    manifest that exists gets a line for each new file; its own lines stay as they are.
    """
    from ssmttm.tokens.check import census, write_scan

    inventory, manifest, new = write_scan(source, out, _corpus_config(layout, licence))
    _print_figures(census(inventory))
    print(_one_line(f"{manifest}: {len(inventory.entries)} tracks, {new} of them new"))


@corpus_app.command(epilog="Example: ssmttm corpus check runs/demo/tokens --html check.html")
def check(
    uri: Annotated[str, typer.Argument(help="Folder or URI of a corpus, in any layout, or of a token dataset.")],
    html: Annotated[str | None, typer.Option(help="Write a page with pictures and clips, e.g. check.html.")] = None,
    as_json: AsJson = False,
    sample: Annotated[int, typer.Option(min=0, help="Source files decoded to measure length and loudness.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws: files measured, clips on the page.")] = 0,
    licence: Licence = None,
    layout: Format = "auto",
) -> None:
    """Count what a corpus or token dataset holds, and look for faults; exit code 1 if there are any.

    Faults are files that are missing, damaged or cannot be decoded, and ids that repeat. Audio that a manifest does not
    list is counted: `scan` adds it.
    """
    import json

    from ssmttm import storage
    from ssmttm.tokens.check import census, read_inventory

    if html is not None:
        storage.check_writable(html)
    inventory = read_inventory(uri, _corpus_config(layout, licence))
    figures = census(inventory, sample, seed)
    if html is not None:
        from ssmttm.reports.census import render
        from ssmttm.tokens.previews import previews

        storage.write_text(html, render(figures, previews(inventory, seed=seed)))
    if as_json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
    else:
        _print_figures(figures)
        if html is not None:
            print(f"page: {html}")
    if figures["problems"]:
        raise typer.Exit(1)


@corpus_app.command(epilog="Example: ssmttm corpus trace runs/demo/tokens s0-000000-0000")
def trace(
    dataset: Annotated[str, typer.Argument(help="Folder or URI of a token dataset.")],
    row_id: Annotated[str | None, typer.Argument(help="A row; one is drawn when left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of that draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Follow a row back to its recording, artist, licence and address; exit code 1 if a link is missing."""
    import json
    from dataclasses import asdict

    from ssmttm.tokens.provenance import describe
    from ssmttm.tokens.provenance import trace as follow

    found = follow(dataset, row_id, seed)
    print(json.dumps(asdict(found), indent=2, ensure_ascii=False) if as_json else describe(found))
    if found.missing:
        raise typer.Exit(1)


def _corpus_config(layout: str, licence: str | None) -> CorpusConfig:
    from ssmttm import config

    return config.from_dict({"corpus": {"format": layout, "default_licence": licence}}).corpus


def _print_groups(name: str, groups: Mapping[str, Mapping[str, float]], what: str) -> None:
    if groups:
        print(f"{name:24} {what:>6}    hours")
    for value, group in groups.items():
        print(f"  {value:22} {group['entries']:6} {group['seconds'] / 3600:8.2f}")


def _print_figures(figures: Mapping[str, Any]) -> None:
    what = "tracks" if figures["rows"] is None else "rows"
    for name in ("split", "licence", "genre"):
        _print_groups(name, figures[f"by_{name}"], what)
    if figures["outside_allow_list"]:
        print(
            f"outside the allow-list ({', '.join(figures['allow_licences'])}): {figures['outside_allow_list']} tracks"
        )
    sample = figures["sample"]
    spreads = {
        "tempo, bpm": figures["tempo"],
        "words of a caption": figures["caption_words"],
        "captions of a track": figures["captions_per_track"],
        "loudness, LUFS": sample["lufs"],
        "length of a file, s": sample["seconds"],
    }
    known = {name: spread for name, spread in spreads.items() if spread}
    if known:
        print(f"{'':24} {'number':>6}   median    least     most")
    for name, spread in known.items():
        print(f"  {name:22} {spread['number']:6} {spread['median']:8g} {spread['least']:8g} {spread['most']:8g}")
    if figures["codebooks"]:
        print(f"{'codebook':24} {'used':>6}  perplexity of {figures['codebooks']['size']}")
        for index, book in enumerate(figures["codebooks"]["books"]):
            print(f"  {index:<22} {book['used']:6.1%} {book['perplexity']:9.1f}")
    for name, share in figures["controls_known"].items():
        print(f"{f'known: {name}':24} {share:6.1%} of the time")
    for reason, entry in figures["rejects_by_reason"].items():
        print(_one_line(f"refused, {reason}: {entry['number']} ({', '.join(entry['first'])})"))
    for claim in figures["claims"][:PROBLEMS_PRINTED]:
        print(_one_line(claim))
    problems, unlisted = figures["problems"], figures["unlisted"]
    for problem in problems[:PROBLEMS_PRINTED]:
        print(_one_line(problem))
    if figures["held_out"]:
        print(_one_line(f"held out: {figures['held_out']}"))
    rows = "" if figures["rows"] is None else f"{figures['rows']} rows of "
    state = f"{len(problems)} problems" if problems else "all files are there"
    if unlisted["number"]:
        state += f"; {unlisted['number']} audio files are not listed ({', '.join(unlisted['first'])})"
    print(_one_line(f"{rows}{figures['tracks']} tracks, {state}"))


def _one_line(text: str) -> str:
    """Text in which a name's line breaks and other control characters are spelt out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
