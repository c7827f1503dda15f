"""Conditioners by name. Another one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from ssmttm.conditions.base import Conditioner, ControlConditioner, FrameControl, InputLayers, checked
from ssmttm.conditions.beat import Beat
from ssmttm.conditions.harmony import Chord, Scale
from ssmttm.conditions.melody import Melody
from ssmttm.conditions.parts import Bass, Drums
from ssmttm.conditions.text import Text
from ssmttm.conditions.texture import Brightness, Density
from ssmttm.conditions.timeline import ScoreControl, shown
from ssmttm.config import Stage1Config, Stage2Config
from ssmttm.errors import UserError
from ssmttm.registry import Registry

_ALL: tuple[type[Conditioner], ...] = (Text, Beat, Chord, Scale, Drums, Bass, Density, Brightness, Melody)
CONDITIONERS: Registry[type[Conditioner]] = Registry("corpus.controls", {one.name: one for one in _ALL})


def control_of(name: str) -> ControlConditioner:
    """The control by frame of a name.

    Raises:
        UserError: if there is none.
    """
    found = CONDITIONERS.find(name)()
    if not found.channels:
        raise UserError(f"corpus.controls={name} is no control by frame")
    return cast(ControlConditioner, found)


def widths_of(names: Iterable[str]) -> dict[str, int]:
    """Channels of controls by frame."""
    return {name: control_of(name).channels for name in names}


def lm_inputs(config: Stage1Config, widths: Mapping[str, int]) -> InputLayers:
    """Stage 1's input layers of conditions by name and width."""
    return InputLayers({name: CONDITIONERS.find(name)().lm_input(config, width) for name, width in widths.items()})


def denoiser_inputs(config: Stage2Config, widths: Mapping[str, int]) -> InputLayers:
    """Stage 2's input layers of conditions by name and width."""
    return InputLayers(
        {name: CONDITIONERS.find(name)().denoiser_input(config, width) for name, width in widths.items()}
    )


def check_score(score: Any) -> dict[str, Any]:
    """A track's `score`: what is known of it, by the names of controls, as requests ask for them.

    Raises:
        UserError: naming the field, if it is no object, names no control, or one of its values is none.
    """
    if not isinstance(score, dict):
        raise UserError(f"score is {shown(score)}; give an object of values by the names of controls")
    writable = [name for name, found in CONDITIONERS.items() if issubclass(found, ScoreControl)]
    for name, value in score.items():
        if name not in writable:
            raise UserError(f"score.{name} is no control that can be written down; there are {', '.join(writable)}")
        cast(ScoreControl[Any], control_of(name)).read(value, f"score.{name}")
    return score


def requested(controls: Mapping[str, Any], known: Iterable[str], frames: int, frame_rate: float) -> dict[str, Any]:
    """The controls that a request names, one row each, for a model that takes those of `known`.

    Raises:
        UserError: for a name that the model does not know, or a value that its conditioner refuses.
    """
    known = list(known)
    found = {}
    for name, value in controls.items():
        if name not in known:
            can = f"it takes {', '.join(known)}" if known else "it takes text alone"
            raise UserError(f"controls.{name}: this model cannot be asked by {name}; {can}")
        control = control_of(name)
        values_CT: np.ndarray = checked(control, control.encode(value, frames, frame_rate), frames)
        found[name] = FrameControl.of([values_CT])
    return found
