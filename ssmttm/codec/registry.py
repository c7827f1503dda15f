"""Codecs by name. Another one is a file of its own and a line here."""

from __future__ import annotations

from ssmttm.codec.base import Codec
from ssmttm.codec.dac import DacCodec
from ssmttm.codec.encodec import EncodecCodec
from ssmttm.codec.mini import MiniCodec
from ssmttm.registry import Registry

KINDS: tuple[type[Codec], ...] = (MiniCodec, DacCodec, EncodecCodec)
CODECS: Registry[type[Codec]] = Registry("codec.name", {kind.name: kind for kind in KINDS})
