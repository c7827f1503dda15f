"""What a listener asks for: defaults filled in from the bundle, every number checked against its bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssmttm.config import GenerationConfig
from ssmttm.engine.sampling import MAX_SEED, Sampling, draw_seed
from ssmttm.errors import UserError

MAX_GUIDANCE, MAX_TEMPERATURE, MAX_TOP_K, MAX_STEPS = 20.0, 5.0, 100_000, 200


@dataclass(frozen=True)
class Settings:
    """All that shapes a piece, besides its prompt and seed.

    seconds: length of the audio. sampling: of stage 1. steps: sampling steps of stage 2, None where
    there is none.
    """

    seconds: float
    sampling: Sampling
    steps: int | None


def check_prompt(prompt: str, config: GenerationConfig) -> None:
    """Raises UserError if a prompt is empty, over-long or not valid Unicode text."""
    if not prompt.strip():
        raise UserError("the prompt is empty; describe the music, e.g. 'calm solo piano, slow'")
    if len(prompt) > config.max_prompt_chars:
        raise UserError(f"the prompt has {len(prompt)} characters; shorten it to {config.max_prompt_chars}")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt is not valid Unicode text; it holds half of a surrogate pair") from None


def check_seed(seed: int | None) -> int:
    """The seed itself, or a drawn one.

    Raises:
        UserError: if it is negative or too large.
    """
    if seed is None:
        return draw_seed()
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed is {seed}; give a whole number from 0 to {MAX_SEED}")
    return seed


def resolve(
    config: GenerationConfig,
    seconds: float,
    guidance: float | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    steps: int | None = None,
    top_p: float | None = None,
) -> Settings:
    """Settings with the bundle's defaults in the place of None.

    Raises:
        UserError: naming the number that is out of bounds; for steps where the model has no stage 2.
    """
    if steps is not None and config.steps is None:
        raise UserError(f"steps is {steps}, but this model has no second stage to take them; leave steps out")
    settings = Settings(
        seconds,
        Sampling(
            config.guidance if guidance is None else guidance,
            config.temperature if temperature is None else temperature,
            config.top_k if top_k is None else top_k,
            config.top_p if top_p is None else top_p,
        ),
        config.steps if steps is None else steps,
    )
    if not (math.isfinite(seconds) and 0 < seconds <= config.max_seconds):
        raise UserError(f"seconds is {seconds:g}; give a length above 0 and up to {config.max_seconds:g}")
    for name, value, low, high in (
        ("guidance", settings.sampling.guidance, 0, MAX_GUIDANCE),
        ("temperature", settings.sampling.temperature, 0, MAX_TEMPERATURE),
        ("top_k", settings.sampling.top_k, 0, MAX_TOP_K),
        ("steps", settings.steps, 1, MAX_STEPS),
    ):
        if value is not None and not low <= value <= high:  # also refuses NaN
            raise UserError(f"{name} is {value:g}; give a number from {low:g} to {high:g}")
    if not 0 < settings.sampling.top_p <= 1:
        raise UserError(f"top_p is {settings.sampling.top_p:g}; give a number above 0 and up to 1")
    return settings
