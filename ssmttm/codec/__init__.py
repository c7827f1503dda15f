"""Audio codecs: waveform to discrete codes and continuous latents, and back."""

from ssmttm.codec.base import Codec, load_codec
from ssmttm.codec.dac import DacCodec
from ssmttm.codec.encodec import EncodecCodec
from ssmttm.codec.metrics import logmel_l1
from ssmttm.codec.mini import MiniCodec

__all__ = ["Codec", "DacCodec", "EncodecCodec", "MiniCodec", "load_codec", "logmel_l1"]
