"""The numbers in a prompt, beside what a text encoder makes of its words.

An encoder of words knows 120 and 130 as two words of many, and the mean of its states, which reaches every layer of the
music model, hardly differs between them. So a prompt's numbers are given as places on a scale too, on which any two
tempi differ and near ones look alike.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

# The scale is logarithmic, of tempi in beats per minute: 6 % from place to place.
LOWEST, HIGHEST, PLACES = 50.0, 210.0, 24
# A number that stands alone or before `bpm`: not the year 1985, the 80s, 4/4 or 0.75 written as .75.
_NUMBER = re.compile(r"(?<![\w.,/])(\d{2,3}(?:\.\d+)?)(?=\s*bpm\b|[^\w.]|\.?$|\.\s)", re.IGNORECASE)


def number_features(prompt: str) -> np.ndarray:
    """float16 [PLACES]: each number of the prompt within the scale is shared between the two places next to it, as near
    as it lies to them; zeros without one."""
    scale = np.linspace(np.log2(LOWEST), np.log2(HIGHEST), PLACES)
    features = np.zeros(PLACES)
    for value in map(float, _NUMBER.findall(prompt)):
        if LOWEST <= value <= HIGHEST:
            features += np.maximum(1 - np.abs(np.log2(value) - scale) / (scale[1] - scale[0]), 0)
    return features.astype(np.float16)


def with_numbers(prompt: str, states_SD: np.ndarray) -> np.ndarray:
    """Token states float16 [S, D + PLACES]: every one with the features of the prompt's numbers, so that their mean
    holds them undiluted."""
    features = np.broadcast_to(number_features(prompt), (len(states_SD), PLACES))
    return np.concatenate([states_SD, features], axis=1)


def fingerprint_with_numbers(fingerprint: str) -> str:
    """Of the encoder of this fingerprint, once numbers stand beside its states."""
    weights, dot, settings = fingerprint.partition(".")
    both = hashlib.sha256(f"{weights}:numbers:{LOWEST:g}-{HIGHEST:g}/{PLACES}".encode()).hexdigest()[:16]
    return f"{both}{dot}{settings}"
