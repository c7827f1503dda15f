"""Every codec by its name in the configuration."""

from __future__ import annotations

import difflib

from ssmttm.codec.base import Codec
from ssmttm.codec.dac import DacCodec
from ssmttm.codec.encodec import EncodecCodec
from ssmttm.codec.mini import MiniCodec
from ssmttm.errors import UserError

CODECS: dict[str, type[Codec]] = {kind.name: kind for kind in (MiniCodec, DacCodec, EncodecCodec)}


def codec_class(name: str) -> type[Codec]:
    """The codec of this name. Raises UserError naming the nearest if there is none."""
    if name not in CODECS:
        nearest = difflib.get_close_matches(name, CODECS, n=1, cutoff=0.0)[0]
        raise UserError(f"codec.name={name} is no codec; did you mean {nearest}? (known: {', '.join(CODECS)})")
    return CODECS[name]
