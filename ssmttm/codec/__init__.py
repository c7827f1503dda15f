"""Audio codecs: waveform to discrete codes and continuous latents, and back."""

from ssmttm.codec.base import Codec
from ssmttm.codec.dac import DacCodec
from ssmttm.codec.encodec import EncodecCodec
from ssmttm.codec.metrics import logmel_l1
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.registry import CODECS
from ssmttm.codec.store import load_codec, save_codec

__all__ = [
    "CODECS",
    "Codec",
    "DacCodec",
    "EncodecCodec",
    "MiniCodec",
    "load_codec",
    "logmel_l1",
    "save_codec",
]
