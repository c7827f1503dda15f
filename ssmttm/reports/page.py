"""Pieces of a self-contained HTML page: players and pictures as data URIs, tables, one style for light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from ssmttm.audio import Audio

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbf9; --card: #ffffff; --ink: #1b1e23; --quiet: #5b626c;
  --line: #dfe1e4; --accent: #1f6fc4; --good: #1c7f4f; --bad: #b3402e; --track: #e9ebee; }
@media (prefers-color-scheme: dark) { :root { --ground: #121417; --card: #1a1d22; --ink: #e8eaed; --quiet: #a2a9b3;
  --line: #2d323a; --accent: #6fb1f5; --good: #63c795; --bad: #f0917f; --track: #2a2f37; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15; margin: 0.5rem 0; letter-spacing: -0.01em; }
h2 { margin: 3rem 0 0.5rem; font-size: 1.35rem; }
h3 { margin: 0 0 0.5rem; font-size: 1.02rem; font-weight: 600; }
p { max-width: 46rem; } .quiet { color: var(--quiet); } small, .small { font-size: 0.86rem; }
.cards, .clips, .players { display: grid; gap: 1rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 1.5rem 0; }
.clips { grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
.players { grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 0.7rem; padding: 1rem; min-width: 0; }
.figure { font-size: 1.55rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2; }
figure { margin: 0.75rem 0 0; } figcaption { color: var(--quiet); font-size: 0.86rem; }
audio { width: 100%; height: 2.4rem; margin: 0.25rem 0; } img { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); font-size: 0.86rem; padding-bottom: 0.3rem; }
th, td { text-align: left; padding: 0.32rem 0.7rem 0.32rem 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
thead th { color: var(--quiet); font-weight: 500; font-size: 0.86rem; } tbody th { font-weight: 500; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scale { position: relative; min-width: 8rem; height: 0.7rem; border-radius: 0.35rem; background: var(--track); }
.scale i { position: absolute; inset: 0 auto 0 0; border-radius: 0.35rem; background: var(--accent); }
.scale b { position: absolute; top: -0.2rem; bottom: -0.2rem; width: 2px; background: var(--ink); }
summary { cursor: pointer; padding: 0.4rem 0; }
"""


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def player(audio: Audio, label: str) -> str:
    """An audio element that holds its sound, as MP3: every browser plays it, and a page of many clips stays small."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, audio.samples.T, audio.sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    source = data_uri(buffer.getvalue(), "audio/mpeg")
    return f'<audio controls preload="none" aria-label="{escape(label)}" src="{source}"></audio>'


def picture(data: bytes, media_type: str, description: str, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = data_uri(data, media_type)
    return f'<figure><img alt="{escape(description)}" src="{source}" loading="lazy">{below}</figure>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows. Cells are HTML; caption and head are text."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def scale(value: float, floor: float, ceiling: float) -> str:
    """A bar from 0 to 1 for a share, with ticks at its floor and ceiling."""
    label = f"{value:.2f}, between a floor of {floor:.2f} and a ceiling of {ceiling:.2f}"
    ticks = "".join(f'<b style="left:{min(max(mark, 0), 1):.1%}"></b>' for mark in (floor, ceiling))
    width = min(max(value, 0), 1)
    return f'<div class="scale" role="img" aria-label="{label}"><i style="width:{width:.1%}"></i>{ticks}</div>'


def card(title: str, figure: str, note: str) -> str:
    return (
        f'<div class="card"><div class="small quiet">{escape(title)}</div><div class="figure">{escape(figure)}</div>'
        f'<div class="small quiet">{escape(note)}</div></div>'
    )


def page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
