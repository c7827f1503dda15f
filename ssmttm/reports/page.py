"""Self-contained HTML pages from the templates beside this file: sound and pictures as data URIs, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ssmttm.audio import Audio

if TYPE_CHECKING:
    from jinja2 import Environment


@lru_cache(maxsize=1)
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssmttm.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"sound": sound, "picture": picture}
    return environment


def render(template: str, **values: Any) -> str:
    """A page; every value is text and is escaped."""
    return _environment().get_template(f"{template}.html").render(values)


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def sound(clip: Audio) -> str:
    """A clip as MP3: every browser plays it, and a page of many clips stays small."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, clip.samples.T, clip.sample_rate, format="MP3", subtype="MPEG_LAYER_III")
    return data_uri(buffer.getvalue(), "audio/mpeg")


def picture(data: bytes) -> str:
    """A picture of `pictures`: PNG or SVG."""
    return data_uri(data, "image/png" if data.startswith(b"\x89PNG") else "image/svg+xml")


def short(number: float) -> str:
    """Three or four significant digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def with_interval(value: float, low: float | None, high: float | None) -> str:
    return short(value) if low is None or high is None else f"{short(value)} [{short(low)}, {short(high)}]"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
