"""The demo's report: one HTML file to listen to and to judge by, with nothing outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ssmttm import audio
from ssmttm.evaluation import music
from ssmttm.reports import pictures
from ssmttm.reports.page import card, page, picture, player, scale, table

Rows = Sequence[Mapping[str, float]]

NAMES = {
    "genre": "Genre",
    "lead": "Lead instrument",
    "drums": "Drums",
    "tempo": "Tempo, or its half or double",
    "key": "Key",
}
SETS = ("shuffled", "generated", "completed", "codec", "real")
HEADS = (
    "",
    "Floor: another's prompt",
    "Generated",
    "Ceiling: true codes, stage 2",
    "Ceiling: codec",
    "Ceiling: real",
    "Of the way from floor to own ceiling",
    "Floor | generated | own ceiling",
)
DRIFT = {"genre_kept": "Genre of its beginning", "music": "Heard as music", "rms": "Level (RMS)"}


def _mark(good: bool, words: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{"✓" if good else "✗"} {words}</span>'


def _tempo_verdict(asked: float, measured: float) -> str:
    if abs(measured / asked - 1) <= music.TEMPO_TOLERANCE:
        return _mark(True, "as asked")
    good = music.tempo_matches(measured, asked)
    return _mark(good, "half or double" if good else "differs")


def _comparison(clip: Mapping[str, Any]) -> str:
    asked, measured = clip["asked"], clip["measured"]
    rows: list[Sequence[str]] = []
    for name, show in (("genre", str), ("lead", str), ("drums", lambda drums: "yes" if drums else "no")):
        good = asked[name] == measured[name]
        verdict = _mark(good, "as asked" if good else "differs")
        rows.append((NAMES[name], escape(show(asked[name])), escape(show(measured[name])), verdict))
    tempi = [f"{side['bpm']:g} bpm" for side in (asked, measured)]
    rows.append(("Tempo", *tempi, _tempo_verdict(asked["bpm"], measured["bpm"])))
    good = music.pitch_class(asked["key"]) == music.pitch_class(measured["key"])
    keys = [escape(f"{side['key']} {side['mode']}") for side in (asked, measured)]
    rows.append(("Key", *keys, _mark(good, "as asked" if good else "differs")))
    return table("Asked and measured", ("", "Asked", "Measured", ""), rows)


def _listen(path: str, label: str) -> tuple[str, audio.Audio]:
    clip = audio.read(path)
    return player(clip, label), clip


def _shown(clips: Sequence[Mapping[str, Any]]) -> str:
    articles = []
    for clip in clips:
        prompt = escape(clip["prompt"])
        made, made_audio = _listen(clip["path"], f"Generated: {clip['prompt']}")
        real, real_audio = _listen(clip["real"], f"Real piece with the same caption: {clip['prompt']}")
        speed = 1 / max(clip["rtf"], 1e-9)
        spectrogram = [
            picture(
                pictures.spectrogram(one.samples, one.sample_rate), "image/png", f"Spectrogram, {what}: {words}", what
            )
            for one, what, words in (
                (made_audio, "generated", clip["prompt"]),
                (real_audio, "real piece with the same caption", clip["prompt"]),
            )
        ]
        articles.append(
            f'<article class="card"><h3>“{prompt}”</h3>{made}{spectrogram[0]}'
            f'<p class="small quiet">{clip["seconds"]:.2f} s, peak {clip["peak"]:.2f}, made at {speed:.1f}x real time, '
            f"seed {clip['seed']}</p>{_comparison(clip)}"
            f"<details><summary>The real piece that the caption was written for</summary>{real}{spectrogram[1]}"
            "</details></article>"
        )
    return f'<div class="clips">{"".join(articles)}</div>'


def _adherence(adherence: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name, label in NAMES.items():
        row = adherence[name]
        room = row["completed"] - row["shuffled"]  # an attribute that even true codes do not carry has none
        share = f"{(row['generated'] - row['shuffled']) / room:.0%}" if room > 0 else "none"
        bar = scale(row["generated"], row["shuffled"], row["completed"])
        rows.append((label, *(f"{row[one]:.2f}" for one in SETS), share, bar))
    return table("Share of held-out prompts followed; drums: mean of both classes", HEADS, rows)


def _long(long: Mapping[str, Any]) -> str:
    rows = long["drift"]
    head = ["", *(f"to minute {row['minute']:g}" if row["minute"] else "beginning" for row in rows)]
    cells = [[label, *(f"{row[name]:.2f}" for row in rows)] for name, label in {**NAMES, **DRIFT}.items()]
    caption = f"{len(long['pieces'])} pieces: the first segment, and the last minute before each mark"
    speed = min(piece["times_real_time"] for piece in long["pieces"])
    return (
        f"<section><h2>Does it stay what it was?</h2><p>Shares of segments that are as asked, as the minutes pass; "
        f"the slowest piece was made at {speed:.1f}x real time.</p>"
        f'<div class="card">{table(caption, head, cells)}</div></section>'
    )


def _reconstructions(entries: Sequence[Mapping[str, str]]) -> str:
    blocks = []
    for entry in entries:
        caption, cells = entry["caption"], []
        for key, what in (("real", "original"), ("codec", "all codebooks"), ("coarse", "first codebook alone")):
            sound = _listen(entry[key], f"{what}: {caption}")[0]
            cells.append(f'<div><div class="small quiet">{what}</div>{sound}</div>')
        blocks.append(f'<h3>“{escape(caption)}”</h3><div class="players">{"".join(cells)}</div>')
    return f'<div class="card">{"".join(blocks)}</div>'


def _curves(metrics: Rows, validation: Rows, ylabel: str, title: str) -> str:
    losses = pictures.smoothed([row["loss"] for row in metrics])
    lines = {"training (running mean)": ([row["step"] for row in metrics], losses)}
    for name, words in (("own", "held-out"), ("null", "held-out, no text"), ("shuffled", "held-out, another's text")):
        points = [(row["step"], row[name]) for row in validation if name in row]
        if points:
            lines[words] = ([step for step, _ in points], [value for _, value in points])
    return picture(pictures.curves(lines, ylabel), "image/svg+xml", f"Loss curves of {title} over training", title)


def _free_form(clips: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for clip in clips:
        asked, heard = clip["asked"]["genre"], clip["measured"]["genre"]
        sound = _listen(clip["path"], clip["prompt"])[0]
        verdict = _mark(asked == heard, f"heard as {escape(heard)}")
        cells.append(
            f'<div class="card"><h3>“{escape(clip["prompt"])}”</h3>{sound}'
            f'<div class="small">meant as {escape(asked)}, {verdict}</div></div>'
        )
    return f'<div class="players">{"".join(cells)}</div>'


def _cards(summary: Mapping[str, Any]) -> str:
    nats = summary["stage1"]["val_nats"]
    frechet, adherence = summary["stage2"]["frechet"], summary["adherence"]
    share = frechet["generated"] / frechet["coarse_only"]
    minutes = sum(summary["wall_s"].values()) / 60
    gain = f"{nats['shuffled'] - nats['own']:.2f} nats"
    return "".join(
        (
            card("Whole demo", f"{minutes:.1f} min", f"{len(summary['wall_s'])} steps, set-up apart"),
            card("Speed", f"{summary['generation']['times_real_time']:.1f}x", "real time, one clip on one core"),
            card("Genre followed", f"{adherence['genre']['generated']:.0%}", "of held-out prompts, by a probe"),
            card("The prompt is worth", gain, "per code: another's prompt against one's own"),
            card("Stage 2", f"{share:.2f}x", "the Fréchet distance of codebook 0 alone"),
            card("Codec", f"{summary['codec']['logmel_l1']:.2f}", "log-mel L1 against originals"),
        )
    )


def render(summary: Mapping[str, Any], evaluation: Mapping[str, Any], runs: Mapping[str, tuple[Rows, Rows]]) -> str:
    """The page as HTML.

    Args:
        summary: content of summary.json.
        evaluation: content of evaluation.json; its audio files are read and embedded.
        runs: rows of metrics.jsonl and validation.jsonl of `stage1` and `stage2`.
    """
    clips = evaluation["clips"]
    shown = [clip for clip in clips if clip["kind"] == "shown"]
    free = [clip for clip in clips if clip["kind"] == "free-form"]
    frechet, nats = summary["stage2"]["frechet"], summary["stage1"]["val_nats"]
    count = evaluation["clips_compared"]
    times_s = [(escape(name), f"{seconds:.0f}") for name, seconds in summary["wall_s"].items()]
    genre_rate = summary["adherence"]["free_form"]["genre"]
    times = table("Wall-clock time", ("Step", "Seconds"), times_s)
    stage2 = [
        ("Real clips (floor)", f"{frechet['real']:.2f}"),
        ("Codebook 0 completed by stage 2", f"{frechet['generated']:.2f}"),
        ("Codebook 0 alone", f"{frechet['coarse_only']:.2f}"),
    ]
    conditions = [(escape(name.replace("_", " ")), f"{value:.3f}") for name, value in nats.items()]
    body = f"""
<header><h1>Text to music, trained in front of you</h1>
<p>All music on this page apart from the clips marked as real was <strong>generated by AI</strong>: by a model trained
from nothing in this run (preset {escape(summary["preset"])}), on a corpus that this run composed. It is a sketch of a
style, not a finished record: the model is as small as the time it had.</p></header>
<div class="cards">{_cards(summary)}</div>
<section><h2>Asked and heard</h2>
<p>Held-out prompts, one per genre as far as they go. What was measured comes from probes trained on real clips (genre,
lead instrument, drums) and from signal analysis (tempo, and the tonic given the mode).</p>{_shown(shown)}</section>
<section><h2>Does it follow the prompt?</h2><p>{count} held-out prompts. The ceilings are what the same measurement says
of the real pieces, of the codec's reconstruction of them, and of their true first codebook completed by stage 2, which
is the most that stage 1 could reach; the floor scores each generated clip against another clip's prompt.</p>
<div class="card">{_adherence(summary["adherence"])}</div></section>
{_long(evaluation["long"]) if "long" in evaluation else ""}
<section><h2>Prompts that no template wrote</h2><p>{len(free)} prompts in people's own words; the probe hears the genre
that was meant in {genre_rate:.0%} of them (chance: one in eight).</p>{_free_form(free)}</section>
<section><h2>What the codec keeps</h2>{_reconstructions(evaluation["reconstructions"][:3])}</section>
<section><h2>Learning</h2><div class="clips">
<div class="card">{_curves(*runs["stage1"], "nats per code", "Stage 1, text to codebook 0")}
{table("Stage 1 at the end, nats per code by what it may read", ("", "Nats"), conditions)}</div>
<div class="card">{_curves(*runs["stage2"], "squared error", "Stage 2, codebook 0 to fine latents")}
{table(f"Stage 2, Fréchet distance of log-mel statistics from real clips, {count} clips", ("", "Distance"), stage2)}
</div></div></section>
<section><h2>Where the time went</h2><div class="card">{times}</div></section>
<footer class="quiet small"><p>Bundle: {escape(summary["bundle"])}.
Token shards: {escape(summary["shards"])}.</p></footer>
"""
    return page("Text to music: the demo's report", body)
