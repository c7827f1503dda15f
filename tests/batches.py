"""Small changes of conditions that tests need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ssmttm.conditions.base import Conditions, TokenStates


def with_text(conditions: Conditions, **changes: Tensor) -> Conditions:
    """The same conditions, some fields of their text replaced."""
    return Conditions(
        {**{name: conditions[name] for name in conditions}, "text": replace(conditions["text"], **changes)}
    )


def doubled(conditions: Conditions) -> Conditions:
    """Text states in fp64."""
    text = conditions["text"]
    return with_text(conditions, states_BSD=text.states_BSD.double(), pooled_BD=text.pooled_BD.double())


def text_of(*fields: Any) -> Conditions:
    """A batch of text alone, from the fields of `TokenStates`."""
    return Conditions({"text": TokenStates(*fields)})
