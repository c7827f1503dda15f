"""What music is asked by, the same from every door (CLI, Python, HTTP) to the engine.

This file says once what each field means and which values it takes: the CLI's options and the HTTP schema are derived
from it. It imports nothing heavy, so that the CLI's help comes at once.
"""

from __future__ import annotations

import operator
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

from ssmttm.conditions.handles import HIGHEST_BPM, LOWEST_BPM, MOST_BARS, WORDS, Handles, Note, meter_of
from ssmttm.errors import UserError

if TYPE_CHECKING:
    import os

    from ssmttm.audio import Audio
    from ssmttm.config import GenerationConfig

MAX_SEED = 2**63 - 1
SECONDS = 10.0  # of a clip whose length nobody says
MOST_PROMPTS = 4  # that one clip mixes: each is read for every frame
WHOLE = "a whole number"
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"}  # Unicode categories of what leaves the paper white
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # so do these, letters and signs by their category: fillers, Braille's blank


@dataclass(frozen=True)
class Bounds:
    """What is true of a number in a request. `above`: `low` itself is out of bounds. `least`: between `low` and this
    nothing is allowed, where `low` has a meaning of its own."""

    help: str
    low: float
    high: float
    kind: str = "a number"
    above: bool = False
    least: float | None = None

    @property
    def is_whole(self) -> bool:
        return self.kind == WHOLE

    def plain(self, name: str, value: Any) -> int | float:
        """A number of any library as Python's own: an int where it is one, or has to be; otherwise a float.

        Raises:
            UserError: naming the field, if it is none, or no whole one where it has to be. True is no number.
        """
        try:
            is_truth = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
            if is_truth or isinstance(value, str) or getattr(value, "ndim", False):
                raise TypeError
            with suppress(TypeError):
                return operator.index(value)
            if self.is_whole:
                raise TypeError
            return float(value)
        except (TypeError, ValueError, OverflowError):
            told = " ".join(repr(value).split())
            raise UserError(f"{name} is {told[:60]}; give {self.told()}") from None

    def check(self, name: str, value: float, high: float | None = None) -> None:
        """Raises UserError, naming the field and its bounds, unless `value` is within them; NaN never is."""
        most = self.high if high is None else high
        is_within = self.low < value <= most if self.above else self.low <= value <= most
        if not is_within or (self.least is not None and self.low < value < self.least):
            told = value if isinstance(value, int) else f"{value:g}"
            raise UserError(f"{name} is {told}; give {self.told(high)}")

    def told(self, high: float | None = None) -> str:
        """What may be given, in words."""
        high = self.high if high is None else high
        if self.above:
            return f"{self.kind} above {self.low} and up to {high:g}"
        if self.least is not None:
            return f"{self.kind} from {self.least} to {high}, or {self.low}"
        return f"{self.kind} from {self.low} to {high}"


def check_prompt(prompt: str, longest: int, name: str = "the prompt") -> None:
    """Raises UserError unless a prompt is visible text of at most `longest` characters."""
    if not isinstance(prompt, str):
        raise UserError(f"{name} is of type {type(prompt).__name__}; give text")
    if len(prompt) > longest:
        raise UserError(f"{name} has {len(prompt)} characters; shorten it to {longest}")
    for character in prompt:
        kind = unicodedata.category(character)
        if kind == "Cs":
            raise UserError(f"{name} is not valid Unicode text; it holds half of a surrogate pair")
        if kind == "Cc" and character not in "\t\n\r":  # formats that keep the prompt end it there
            raise UserError(f"{name} holds the control character U+{ord(character):04X}; leave it out")
    if all(unicodedata.category(character) in UNSEEN or character in BLANKS for character in prompt):
        raise UserError(f"{name} is empty; describe the music, e.g. 'calm solo piano, slow'")


def _asked(
    default: Any,
    help: str,
    low: float,
    high: float,
    kind: str = "a number",
    above: bool = False,
    least: float | None = None,
) -> Any:
    return field(default=default, metadata={"bounds": Bounds(help, low, high, kind, above, least)})


WEIGHT = Bounds("how much a prompt counts beside the others", 0, 1000, above=True)


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn.

    guidance: classifier-free guidance g; logits become `u + g (c - u)` (arXiv 2207.12598, as w = g - 1). 1 uses the
        conditional logits alone, 0 the unconditional ones.
    temperature: divides the logits; 0 takes the most likely code.
    top_k: draw among the k most likely codes; 0 draws among all.
    top_p: of these, draw among the fewest that together reach this probability (nucleus sampling, arXiv 1904.09751);
        1 draws among all.
    """

    guidance: float
    temperature: float
    top_k: int
    top_p: float = 1.0


@dataclass(frozen=True)
class MusicRequest:
    """One clip. What is None takes the bundle's default (the seed is drawn). Numbers of NumPy or torch are taken, and
    kept as Python's own.

    prompts: texts with weights, (text, weight) each, as one of which, of weight 1, the prompt counts if there is one.
        Weights are divided by their sum.
    negative: what guidance leads away from, in the place of no text.
    control_guidance: of stage 1, how closely to follow the controls: with c_i the logits of prompt i, k those of the
        controls alone and u those of nothing, `u + h (k - u) + g (sum_i w_i c_i - k)`, where g is the guidance. Left
        out h is g, and k, which costs a row of its own, is spared.
    seconds: 10 where neither they nor bars are given. guidance, temperature, top_k, top_p: of stage 1, see `Sampling`.
    steps: of stage 2; refused where there is none.
    audio: what the music continues, of any rate and number of channels, see `audio.checked`; `seconds` and `bars` are
        those that follow it.
    bpm, meter, bars, chords, key, drums, bass, density, brightness, melody, controls: see `Handles`. The melody may
        also be given as a file of MIDI or sound, or as sound, whose notes are kept (see `notes_of`).

    Raises:
        UserError: naming the field, if a number is none, or a handle not what it takes.
    """

    prompt: str = ""
    seconds: float | None = _asked(
        None, "length of the clip, 10 when left out; the model sets the upper limit", 0, 86_400, "a length", True
    )
    seed: int | None = _asked(None, "same seed, same audio; drawn when left out", 0, MAX_SEED, WHOLE)
    guidance: float | None = _asked(None, "how closely to follow the prompt; 1: unguided", 0, 20)
    temperature: float | None = _asked(
        None, "above 1 wilder, below 1 tamer, 0: always the likeliest code", 0, 5, least=0.01
    )
    top_k: int | None = _asked(None, "draw among the k likeliest codes; 0: all", 0, 100_000, WHOLE)
    steps: int | None = _asked(None, "sampling steps of the second stage; refused where there is none", 1, 200, WHOLE)
    top_p: float | None = _asked(
        None, "draw among the likeliest codes that together reach this probability", 0, 1, above=True
    )
    controls: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    audio: Audio | None = None
    bpm: float | None = _asked(None, "beats per minute", LOWEST_BPM, HIGHEST_BPM)
    meter: int | str | None = None
    bars: float | None = _asked(None, "length in bars, instead of seconds; needs bpm", 0, MOST_BARS, above=True)
    chords: str | None = None
    key: str | None = None
    drums: bool | None = None
    bass: bool | None = None
    density: float | None = _asked(None, "how many notes there are, from few to many", 0, 1)
    brightness: float | None = _asked(None, "how bright it sounds, from dark to bright", 0, 1)
    melody: Sequence[Note] | str | os.PathLike[str] | Audio | None = None
    prompts: Sequence[tuple[str, float] | Mapping[str, Any]] = ()
    negative: str | None = None
    control_guidance: float | None = _asked(
        None, "how closely to follow the controls; as the prompt when left out", 0, 20
    )

    def __post_init__(self) -> None:
        for name, bounds in BOUNDS.items():
            value = getattr(self, name)
            if value is not None:
                self._keep(name, bounds.plain(name, value))
                if name in WORDS:
                    bounds.check(name, getattr(self, name))
        if self.meter is not None:
            self._keep("meter", meter_of(self.meter))
        if self.melody is not None:
            self._keep("melody", _notes(self.melody))
        self._keep("prompts", _weighted(self.prompts))
        if len(self.texts) > MOST_PROMPTS:
            raise UserError(
                f"{len(self.texts)} prompts are asked for; give up to {MOST_PROMPTS}, the first one included"
            )
        self._keep("seconds", self._length())

    def _keep(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _length(self) -> float:
        length_s = self.handles.length_s
        if length_s is not None and self.seconds not in (None, length_s):
            raise UserError("seconds and bars both say how long the clip is; give one of them")
        return next(value for value in (self.seconds, length_s, SECONDS) if value is not None)

    @property
    def texts(self) -> tuple[tuple[str, float], ...]:
        """The prompts with their weights, which add up to 1."""
        given = [(self.prompt, 1.0)] if self.prompt or not self.prompts else []
        given += self._pairs
        total = sum(weight for _, weight in given)
        return tuple((text, weight / total) for text, weight in given)

    @property
    def _pairs(self) -> tuple[tuple[str, float], ...]:
        return cast(tuple[tuple[str, float], ...], self.prompts)  # which they are, once they are checked

    @property
    def title(self) -> str:
        """What the music should be like, as one text."""
        return self.prompt if not self.prompts else " + ".join(f"{text} ({weight:.3g})" for text, weight in self.texts)

    @property
    def steers_controls(self) -> bool:
        """Whether the controls have a guidance of their own."""
        return self.control_guidance not in (None, self.guidance)

    @property
    def leads_away(self) -> bool:
        """Whether guidance leads away from anything: whether it is read what the model says when nothing is asked."""
        return (self.control_guidance if self.steers_controls else self.guidance) != 1

    @property
    def rows(self) -> int:
        """Of recurrent state that the clip takes."""
        return len(self.texts) + self.steers_controls + self.leads_away

    @property
    def handles(self) -> Handles:
        """What is asked by words and controls."""
        return Handles(**{one.name: getattr(self, one.name) for one in fields(Handles)})

    @property
    def told(self) -> dict[str, Any]:
        """What was asked besides one prompt, as JSON values by field."""
        given = {name: getattr(self, name) for name in (*WORDS, "controls", "negative", "control_guidance")}
        given["prompts"] = [{"text": text, "weight": weight} for text, weight in self._pairs] or None
        if self.prompts:
            given["prompt"] = self.prompt
        return {name: value for name, value in given.items() if value is not None and value != {} and value != ()}

    def filled(self, config: GenerationConfig) -> MusicRequest:
        """The same request with the bundle's defaults in the place of None.

        Raises:
            UserError: naming the field that is out of bounds; for steps where the model has no stage 2.
        """
        if self.steps is not None and config.steps is None:
            raise UserError(f"steps is {self.steps}, but this model has no second stage to take them; leave steps out")
        left_out = [name for name in DEFAULTS if getattr(self, name) is None]
        seed = draw_seed() if self.seed is None else self.seed
        filled = replace(self, seed=seed, **{name: getattr(config, name) for name in left_out})
        for name, bounds in BOUNDS.items():
            value = getattr(filled, name)
            if value is not None and name != "seconds":
                bounds.check(name, value)
        if filled.control_guidance is not None and not filled.handles.asked:
            raise UserError(
                f"control_guidance is {filled.control_guidance:g}, but no control is asked for; leave it out"
            )
        if filled.negative is not None and filled.rows == len(filled.texts):
            raise UserError("negative has no effect where guidance is 1; give another guidance, or leave it out")
        assert filled.seconds is not None
        if self.bars is not None and filled.seconds > config.max_seconds:
            raise UserError(
                f"bars is {self.bars:g}, which takes {filled.seconds:g} s; give up to {config.max_seconds:g} s"
            )
        BOUNDS["seconds"].check("seconds", filled.seconds, config.max_seconds)
        return filled

    @property
    def sampling(self) -> Sampling:
        """Of stage 1, once the request is filled."""
        return Sampling(*(getattr(self, one.name) for one in fields(Sampling)))


BOUNDS: dict[str, Bounds] = {one.name: one.metadata["bounds"] for one in fields(MusicRequest) if one.metadata}
DEFAULTS = ("guidance", "temperature", "top_k", "top_p", "steps")  # fields that a bundle has defaults for


def _weighted(prompts: Any) -> tuple[tuple[str, float], ...]:
    """Prompts as pairs, once each is a text with a weight."""
    found = []
    for one in (prompts,) if isinstance(prompts, str | Mapping) or not isinstance(prompts, Sequence) else prompts:
        try:
            text, weight = (one["text"], one.get("weight", 1)) if isinstance(one, Mapping) else tuple(one)
            if not isinstance(text, str):
                raise TypeError
        except (TypeError, ValueError, KeyError):
            told = repr(one)[:60]
            raise UserError(f"prompts holds {told}; give texts with weights, as ('techno', 0.7)") from None
        name = f"the weight of {' '.join(text.split())[:40]!r}"
        plain = WEIGHT.plain(name, weight)
        WEIGHT.check(name, plain)
        found.append((text, float(plain)))
    return tuple(found)


def _notes(melody: Any) -> tuple[Note, ...]:
    """Notes as they are given, or of a file or sound."""
    if isinstance(melody, list | tuple) and not hasattr(melody, "sample_rate"):
        try:
            return tuple((float(start), float(duration), float(pitch)) for start, duration, pitch in melody)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"melody is {repr(melody)[:60]}; give {WORDS['melody'].takes}") from None
    from ssmttm.engine.melody import notes_of

    return notes_of(melody)


def draw_seed() -> int:
    """A new seed, short enough to be typed again."""
    return secrets.randbelow(2**32)
