"""What music is asked by, the same from every door (CLI, Python, HTTP) to the engine.

This file says once what each field means and which values it takes: the CLI's options and the HTTP schema are derived
from it. It imports nothing heavy, so that the CLI's help comes at once.
"""

from __future__ import annotations

import operator
import secrets
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ssmttm.errors import UserError

if TYPE_CHECKING:
    from ssmttm.audio import Audio
    from ssmttm.config import GenerationConfig

MAX_SEED = 2**63 - 1
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


def check_prompt(prompt: str, longest: int) -> None:
    """Raises UserError unless a prompt is visible text of at most `longest` characters."""
    if not isinstance(prompt, str):
        raise UserError(f"the prompt is of type {type(prompt).__name__}; give text")
    if len(prompt) > longest:
        raise UserError(f"the prompt has {len(prompt)} characters; shorten it to {longest}")
    for character in prompt:
        kind = unicodedata.category(character)
        if kind == "Cs":
            raise UserError("the prompt is not valid Unicode text; it holds half of a surrogate pair")
        if kind == "Cc" and character not in "\t\n\r":  # formats that keep the prompt end it there
            raise UserError(f"the prompt holds the control character U+{ord(character):04X}; leave it out")
    if all(unicodedata.category(character) in UNSEEN or character in BLANKS for character in prompt):
        raise UserError("the prompt is empty; describe the music, e.g. 'calm solo piano, slow'")


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

    guidance, temperature, top_k, top_p: of stage 1, see `Sampling`. steps: of stage 2; refused where there is none.
    controls: values by name, each checked by the conditioner that has the name.
    audio: what the music continues, of any rate and number of channels, see `audio.checked`; `seconds` are those that
        follow it.

    Raises:
        UserError: naming the field, if a number is none.
    """

    prompt: str
    seconds: float = _asked(10.0, "length of the clip; the model sets the upper limit", 0, 86_400, "a length", True)
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
    controls: Mapping[str, Any] = field(default_factory=dict)
    audio: Audio | None = None

    def __post_init__(self) -> None:
        for name, bounds in BOUNDS.items():
            value = getattr(self, name)
            if value is not None or name == "seconds":
                object.__setattr__(self, name, bounds.plain(name, value))

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
            if value is not None:
                bounds.check(name, value, config.max_seconds if name == "seconds" else None)
        return filled

    @property
    def sampling(self) -> Sampling:
        """Of stage 1, once the request is filled."""
        return Sampling(*(getattr(self, one.name) for one in fields(Sampling)))


BOUNDS: dict[str, Bounds] = {one.name: one.metadata["bounds"] for one in fields(MusicRequest) if one.metadata}
DEFAULTS = ("guidance", "temperature", "top_k", "top_p", "steps")  # fields that a bundle has defaults for


def draw_seed() -> int:
    """A new seed, short enough to be typed again."""
    return secrets.randbelow(2**32)
