"""What music is asked by: conditions as the models take them, and what a conditioner must say for itself.

A condition is a sequence (`TokenStates`: text) or a control by frame (`FrameControl`); `Conditions` is a batch of them
by name, which everything between a request and a model's input layers hands on without looking inside. A conditioner
is one file: it reads its value from a request and from a track, and owns its input layers.

Shapes: B batch, S tokens, D width, C channels, T frames, P packed channels, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmttm.conditions.hearing.beats import Beats, beats_of
from ssmttm.conditions.hearing.sound import Sound
from ssmttm.config import Stage1Config, Stage2Config


@dataclass(frozen=True)
class TokenStates:
    """A sequence that holds for the whole piece, left-padded.

    states_BSD: float32, zero where padded. mask_BS: True on real tokens. pooled_BD: mean over real tokens.
    null_B: rows that a model must read as its learned null.
    """

    states_BSD: Tensor
    mask_BS: Tensor
    pooled_BD: Tensor
    null_B: Tensor

    def __len__(self) -> int:
        return len(self.null_B)

    def _each(self, change: Any) -> Self:
        return type(self)(*map(change, (self.states_BSD, self.mask_BS, self.pooled_BD, self.null_B)))

    def to(self, device: torch.device | str) -> Self:
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, index: slice | Sequence[int]) -> Self:
        return self._each(lambda tensor: tensor[index])

    def frames(self, start: int, stop: int) -> Self:
        return self

    def as_null(self) -> Self:
        return replace(self, null_B=torch.ones_like(self.null_B))

    def padded(self, length: int) -> Self:
        """The same, left-padded to `length` tokens."""
        extra = length - self.mask_BS.shape[1]
        if not extra:
            return self
        return replace(
            self, states_BSD=F.pad(self.states_BSD, (0, 0, extra, 0)), mask_BS=F.pad(self.mask_BS, (extra, 0))
        )

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Rows under one another, the shorter ones left-padded to the longest."""
        longest = max(part.mask_BS.shape[1] for part in parts)
        parts = [part.padded(longest) for part in parts]
        names = ("states_BSD", "mask_BS", "pooled_BD", "null_B")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class FrameControl:
    """A control by frame: values_BCT float32, zero where unknown; known_BT: True where something is asked for."""

    values_BCT: Tensor
    known_BT: Tensor

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> Self:
        """From rows [C, T_i] that are NaN where unknown, padded at the end to the longest by unknown frames."""
        longest = max(row.shape[1] for row in rows)
        values_BCT = np.full((len(rows), rows[0].shape[0], longest), np.nan, np.float32)
        for place, row in zip(values_BCT, rows, strict=True):
            place[:, : row.shape[1]] = row
        known_BT: np.ndarray = np.logical_not(np.isnan(values_BCT).any(axis=1))
        return cls(torch.from_numpy(np.where(known_BT[:, None], values_BCT, 0.0)), torch.from_numpy(known_BT))

    def __len__(self) -> int:
        return len(self.known_BT)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.values_BCT.to(device), self.known_BT.to(device))

    def rows(self, index: slice | Sequence[int]) -> Self:
        return type(self)(self.values_BCT[index], self.known_BT[index])

    def frames(self, start: int, stop: int) -> Self:
        """Frames `start` to `stop`; nothing is known of those past the end."""
        missing = max(0, stop - max(start, self.known_BT.shape[1]))
        values_BCT, known_BT = self.values_BCT[..., start:stop], self.known_BT[:, start:stop]
        return type(self)(F.pad(values_BCT, (0, missing)), F.pad(known_BT, (0, missing)))

    def as_null(self) -> Self:
        return type(self)(torch.zeros_like(self.values_BCT), torch.zeros_like(self.known_BT))

    def packed(self) -> Tensor:
        """Channels and, as the last one, what is known: [B, T, C + 1]."""
        return torch.cat([self.values_BCT, self.known_BT[:, None].to(self.values_BCT.dtype)], dim=1).mT

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        longest = max(part.known_BT.shape[1] for part in parts)
        parts = [part.frames(0, longest) for part in parts]
        return cls(torch.cat([part.values_BCT for part in parts]), torch.cat([part.known_BT for part in parts]))


Condition = TokenStates | FrameControl


class Conditions:
    """An immutable batch of conditions by name. `len` is its number of rows."""

    def __init__(self, parts: Mapping[str, Condition]):
        self._parts: dict[str, Any] = dict(parts)
        if len({len(part) for part in self._parts.values()}) != 1:
            raise ValueError("conditions must be of equally many rows")

    def __len__(self) -> int:
        return len(next(iter(self._parts.values())))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Any:
        return self._parts[name]

    def __repr__(self) -> str:
        return f"Conditions({', '.join(self._parts)}; {len(self)} rows)"

    def _each(self, change: Any) -> Conditions:
        return Conditions({name: change(part) for name, part in self._parts.items()})

    def to(self, device: torch.device | str) -> Conditions:
        return self._each(lambda part: part.to(device))

    def rows(self, index: slice | Sequence[int]) -> Conditions:
        """Some of the rows."""
        return self._each(lambda part: part.rows(index))

    def frames(self, start: int, stop: int) -> Conditions:
        """Controls of frames `start` to `stop`, unknown past their end; what holds for the whole piece stays."""
        return self._each(lambda part: part.frames(start, stop))

    def as_null(self, names: Iterable[str] | None = None) -> Conditions:
        """The same batch with nothing asked for: by these conditions, or by any."""
        chosen = set(self._parts if names is None else names)
        return Conditions({name: part.as_null() if name in chosen else part for name, part in self._parts.items()})

    def padded(self, tokens: int) -> Conditions:
        """Sequences left-padded to `tokens`."""
        return self._each(lambda part: part.padded(tokens) if isinstance(part, TokenStates) else part)

    @staticmethod
    def cat(*batches: Conditions) -> Conditions:
        """Rows under one another; a control that a batch does not have is unknown there."""
        examples = {name: part for batch in batches for name, part in batch._parts.items()}
        joined = {}
        for name, example in examples.items():
            parts = [batch[name] if name in batch else example.rows([0] * len(batch)).as_null() for batch in batches]
            joined[name] = type(example).cat(parts)
        return Conditions(joined)


class Prefix(NamedTuple):
    """A sequence as a model reads it, tokens [B, S, D], and which of them are real [B, S]; never all padding."""

    tokens_BSD: Tensor
    mask_BS: Tensor


class InputLayer(nn.Module):
    """What a conditioner adds to a model. A way that it does not take gives None.

    lr_factors: learning rates of its parameters, by the beginning of their names, relative to the model's.
    channels: of a packed control by frame; 0 for a sequence.
    """

    channels: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.lr_factors: dict[str, float] = {}

    def prefix(self, condition: Any, drop: bool = False) -> Prefix | None:
        """Tokens for the model to read; `drop`: as if nothing had been asked for."""
        return None

    def pooled(self, condition: Any, drop: bool = False) -> Tensor | None:
        """What is added at every place: in stage 1 by layer [L, B, D], in stage 2 to the time's features [B, D]."""
        return None

    def by_frame(self, packed_BTP: Tensor) -> Tensor | None:
        """What is added frame by frame: [B, T, D]; nothing (zero) where the control is unknown."""
        return None


class ControlInput(InputLayer):
    """A linear layer over a packed control. It starts at zero, so that a model that never heard of the control begins
    as it was, and adds nothing where the control is unknown."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.channels = channels + 1
        self.proj = nn.Linear(self.channels, width, bias=False)
        nn.init.zeros_(self.proj.weight)

    def by_frame(self, packed_BTP: Tensor) -> Tensor | None:
        return self.proj(packed_BTP)


class InputLayers(nn.ModuleDict):
    """The input layers of a model's conditioners, in the order of their names' first mention. Controls reach them
    packed into one tensor [B, T, P]."""

    @property
    def channels(self) -> int:
        """P; 0 where the model takes no controls."""
        return sum(layer.channels for layer in self.layers())

    def layers(self) -> list[InputLayer]:
        return list(self.values())  # type: ignore[arg-type]

    def named(self) -> list[tuple[str, InputLayer]]:
        return list(self.items())  # type: ignore[arg-type]

    def lr_factors(self, prefix: str) -> dict[str, float]:
        """Of all layers, by the beginning of their parameters' names under `prefix`."""
        return {
            f"{prefix}.{name}.{begin}": factor
            for name, layer in self.named()
            for begin, factor in layer.lr_factors.items()
        }

    def prefix(self, conditions: Conditions, drop: bool = False) -> Prefix:
        """The tokens of all sequences, one after another."""
        found = [layer.prefix(conditions[name], drop) for name, layer in self.named() if name in conditions]
        prefixes = [prefix for prefix in found if prefix is not None]
        if len(prefixes) == 1:
            return prefixes[0]
        tokens, masks = zip(*prefixes, strict=True)
        return Prefix(torch.cat(tokens, dim=1), torch.cat(masks, dim=1))

    def pooled(self, conditions: Conditions, drop: bool = False) -> Tensor | None:
        """The sum of what all add at every place."""
        total = None
        for name, layer in self.named():
            added = layer.pooled(conditions[name], drop) if name in conditions else None
            if added is not None:
                total = added if total is None else total + added
        return total

    def pack(self, conditions: Conditions, frames: int) -> Tensor | None:
        """The controls' first `frames` frames as [B, frames, P]; None where the model takes none."""
        if not self.channels:
            return None
        weight = next(self.parameters())
        parts = []
        for name, layer in self.named():
            if not layer.channels:
                continue
            if name in conditions:
                parts.append(conditions[name].frames(0, frames).packed().to(weight))
            else:
                parts.append(weight.new_zeros(len(conditions), frames, layer.channels))
        return torch.cat(parts, dim=-1)

    def by_frame(self, packed_BTP: Tensor) -> Tensor:
        """The sum of what all controls add: [B, T, D]."""
        controls = [layer for layer in self.layers() if layer.channels]
        parts = packed_BTP.split([layer.channels for layer in controls], dim=-1)
        added = [layer.by_frame(part) for layer, part in zip(controls, parts, strict=True)]
        total = added[0]
        assert total is not None
        for one in added[1:]:
            assert one is not None
            total = total + one
        return total


@dataclass(frozen=True)
class Excerpt:
    """A segment of a track as preprocessing sees it: what the manifest says of the track, samples float32 [1, N] with
    their rate, where the segment begins in the track, and how many code frames it has at which rate."""

    metadata: Mapping[str, Any]
    samples: np.ndarray
    sample_rate: int
    start_s: float
    frames: int
    frame_rate: float

    @cached_property
    def sound(self) -> Sound:
        """What is heard of it, for all controls together."""
        return Sound(self.samples[0], self.sample_rate)

    @cached_property
    def beats(self) -> Beats:
        """Those that are heard."""
        return beats_of(self.sound)


class Conditioner(ABC):
    """One thing that music can be asked by. `name` is its key in requests, datasets and bundles. `channels`: of a
    control by frame; 0 for a sequence."""

    name: ClassVar[str]
    channels: ClassVar[int] = 0

    @abstractmethod
    def lm_input(self, config: Stage1Config, width: int) -> InputLayer:
        """Its input layer in stage 1; `width` is that of its states or its number of channels."""

    @abstractmethod
    def denoiser_input(self, config: Stage2Config, width: int) -> InputLayer:
        """Its input layer in stage 2."""


class ControlConditioner(Conditioner):
    """A control by frame, of C = `channels`.

    dropout: share of training samples in which it is unknown throughout.
    """

    dropout: ClassVar[float] = 0.3

    @abstractmethod
    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        """The control [C, T] of a segment, from its track's metadata or its audio, NaN in frames where it is not known
        with confidence; None where nothing is known. A guess is not a value."""

    @abstractmethod
    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        """The control [C, T] that a request's JSON value asks for, NaN where it asks for nothing.

        Raises:
            UserError: naming the field and what it takes, for any other value.
        """

    def lm_input(self, config: Stage1Config, width: int) -> InputLayer:
        return ControlInput(width, config.width)

    def denoiser_input(self, config: Stage2Config, width: int) -> InputLayer:
        return ControlInput(width, config.width)


def checked(control: ControlConditioner, values_CT: np.ndarray, frames: int) -> np.ndarray:
    """A control's values as float32, after a look at their shape.

    Raises:
        ValueError: if a conditioner does not keep to its own contract.
    """
    if values_CT.shape != (control.channels, frames):
        raise ValueError(f"conditioner {control.name} gave {values_CT.shape}, not [{control.channels}, {frames}]")
    return np.asarray(values_CT, np.float32)
