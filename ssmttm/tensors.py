"""Weights in safetensors files: looked at before they are loaded, and finite once they are.

A file's header says names, types and shapes. It is compared with what a configuration makes before a model is made or
data is read, so that neither an absurd configuration nor an absurd file costs more than a look.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ssmttm.errors import DamagedError, UserError
from ssmttm.verified import File, parse_json

Built = TypeVar("Built")
HEADER_BYTES = 16 << 20  # a model of 100,000 tensors has one of 12 MB
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
# While a module is built, parameters may be registered more than once (weight norm does).
_AGAIN, _SPARE = 3, 64


class Entry(NamedTuple):
    """A tensor as a header names it."""

    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.type} {list(self.shape)}"


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _entry(value: Any) -> tuple[Entry, tuple[int, int]]:
    shape, offsets = value["shape"], value["data_offsets"]
    entry = Entry(value["dtype"], tuple(shape))
    whole = all(type(size) is int and size >= 0 for size in (*shape, *offsets))
    if not whole or len(shape) > 16 or len(offsets) != 2:
        raise ValueError
    if offsets[1] - offsets[0] != entry.size * _BYTES[entry.type]:
        raise ValueError
    return entry, (offsets[0], offsets[1])


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file, of which so far only the header was read: `entries`, by name."""

    file: File
    entries: dict[str, Entry]

    @classmethod
    def look(cls, file: File) -> TensorFile:
        """Read the header.

        Raises:
            DamagedError: if it is none, does not fit the file's size, or the tensors do not fit this machine's memory.
        """
        head, size = file.beginning(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 2 <= length <= min(size - 8, HEADER_BYTES):
            raise file.damaged("is no safetensors file")
        try:
            header = parse_json(file.beginning(8 + length)[0][8:])
            header.pop("__metadata__", None)
            found = {name: _entry(value) for name, value in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise file.damaged("has a header that makes no sense") from None
        ends = [0, *(end for _, (_, end) in sorted(found.values(), key=lambda one: one[1]))]
        if [start for _, (start, _) in sorted(found.values(), key=lambda one: one[1])] != ends[:-1]:
            raise file.damaged("has a header that makes no sense")
        if ends[-1] != size - 8 - length:
            raise file.damaged(f"has {size} bytes, and its header asks for {8 + length + ends[-1]}")
        if size > _memory():
            raise file.damaged(f"has {size / 1e9:,.0f} GB, more than this machine's memory")
        return cls(file, {name: entry for name, (entry, _) in found.items()})

    def renamed(self, names: Callable[[Mapping[str, Entry]], dict[str, Entry]]) -> TensorFile:
        """The same with its entries under other names."""
        return TensorFile(self.file, names(self.entries))

    def build(self, make: Callable[[], Built]) -> Built:
        """What `make` makes, which is kept from making more parameters than the file holds.

        Raises:
            DamagedError: if it would, or fails.
        """
        try:
            with self._bounded():
                return make()
        except DamagedError:
            raise
        except UserError as error:
            raise self.file.damaged(f"has a bad configuration ({error})") from None
        except Exception as error:  # of whatever kind: what is built was described by anyone
            reason = str(error) or type(error).__name__
            raise self.file.damaged(f"has a bad configuration ({reason})") from None

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        numbers = _AGAIN * len(self.entries) + _SPARE
        sizes = _AGAIN * sum(entry.size for entry in self.entries.values()) + _SPARE
        thread = threading.get_ident()

        def count(number: int, size: int) -> None:
            nonlocal numbers, sizes
            if threading.get_ident() != thread:
                return
            numbers, sizes = numbers - number, sizes - size
            if numbers < 0 or sizes < 0:
                raise self.file.damaged("holds far fewer weights than its configuration makes")

        def parameter(module: nn.Module, name: str, value: Tensor | None) -> None:
            count(1, 0 if value is None else value.numel())

        def buffer(module: nn.Module, name: str, value: Tensor | None) -> None:
            count(1, 0)

        hooks = (
            register_module_parameter_registration_hook(parameter),
            register_module_buffer_registration_hook(buffer),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def expect(self, expected: Mapping[str, Tensor]) -> None:
        """Compare names, types and shapes. Where float32 is expected, float16 may be stored.

        Raises:
            DamagedError: naming the first that is missing, too many or other than expected.
        """
        for name, tensor in expected.items():
            entry = self.entries.get(name)
            if entry is None:
                raise self.file.damaged(f"lacks {name}, which its configuration wants")
            wanted = Entry(TYPES[tensor.dtype], tuple(tensor.shape))
            stored = Entry("F32", entry.shape) if entry.type == "F16" else entry
            if stored != wanted:
                raise self.file.damaged(f"holds {name} as {entry}, where its configuration wants {wanted}")
        if more := self.entries.keys() - expected.keys():
            raise self.file.damaged(f"holds {min(more)!r}, which its configuration does not know")

    def load(self) -> dict[str, Tensor]:
        """The tensors, on CPU, under the names in the file.

        Raises:
            DamagedError: if the file is not as listed, or one of them is not finite.
        """
        try:
            tensors = safetensors.torch.load(self.file.read())
        except SafetensorError as error:
            raise self.file.damaged(f"is no safetensors file ({error})") from None
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self.file.damaged(f"holds values in {name} that are not finite")
        return tensors
