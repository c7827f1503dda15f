"""The codec contract: waveform to codes and latents and back, whole or in chunks; safetensors + JSON on disk.

Shapes: B batch, N samples, T code frames = ceil(N / hop_length), K codebooks, V codebook entries, D latent dimensions.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ssmttm import storage
from ssmttm.errors import UserError

CONFIG_NAME = "codec.json"
WEIGHTS_NAME = "codec.safetensors"
PUBLISHED_CONFIG_NAME, PUBLISHED_WEIGHTS_NAME = "config.json", "model.safetensors"  # of transformers
VOCODER_NAME = "vocoder.safetensors"
VOCODER_PREFIX = "neural_vocoder."  # of its weights in the codec's state
FORMAT = 1


class Codec(nn.Module, ABC):
    """A residual codec split in two: codebook 0 (coarse), and everything it leaves out (fine).

    Attributes:
        sample_rate: in Hz; audio is mono.
        hop_length: samples per code frame.
        frame_rate: code frames per second.
        num_codebooks, codebook_size: K and V.
        coarse_dim, fine_dim: dimensions of the two kinds of latents.
        encode_batch: segments that preprocessing encodes together; fixed, as results depend on it in the last bits.
    """

    encode_batch = 1  # convolutional encoders keep activations of every sample

    sample_rate: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    coarse_dim: int
    fine_dim: int

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_length

    @property
    def device(self) -> torch.device:
        return next(iter(self.state_dict().values())).device

    @abstractmethod
    def encode_with_latents(self, wav_B1N: Tensor) -> tuple[Tensor, Tensor]:
        """Encode float32 samples, zero-padded to whole frames.

        Returns:
            (codes_BKT int64, fine_BDT float32): codes of all codebooks and the continuous fine latents.
        """

    @abstractmethod
    def coarse(self, codes0_BT: Tensor) -> Tensor:
        """Coarse latents [B, coarse_dim, T] of codebook 0's codes."""

    @abstractmethod
    def fine(self, wav_B1N: Tensor, codes_BKT: Tensor) -> Tensor:
        """Continuous fine latents [B, fine_dim, T]: what codebook 0 leaves out of the waveform (stage 2's target)."""

    @abstractmethod
    def fine_from_codes(self, codes_BKT: Tensor) -> Tensor:
        """Fine latents [B, fine_dim, T] as codebooks 1 to K-1 approximate them; zeros if K is 1."""

    @abstractmethod
    def decode_chunk(
        self, coarse_BDT: Tensor, fine_BDT: Tensor, state: Any = None, final: bool = False
    ) -> tuple[Tensor, Any]:
        """Decode the next frames of a stream.

        Args:
            coarse_BDT, fine_BDT: any number of frames, none included.
            state: what the call before returned; None for the first.
            final: no frames follow, so everything held back is to be returned.

        Returns:
            (wav_B1N, state): the samples that can be known so far. Their concatenation has T * hop_length samples
            and equals `decode` of all frames bit for bit, however the stream is cut.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What, with the weights, rebuilds the codec: `name` and `config`, plain JSON values."""

    def describe_vocoder(self) -> dict[str, Any] | None:
        """What, with its weights, rebuilds a vocoder trained on top, plain JSON values; None without one."""
        return None

    def add_vocoder(self, config: dict[str, Any]) -> None:
        """Put an untrained vocoder of this description on top. Raises ValueError for a bad one."""
        raise ValueError("this codec takes no vocoder")

    def encode(self, wav_B1N: Tensor) -> Tensor:
        """Codes [B, K, T] int64 of float32 samples, zero-padded to whole frames."""
        return self.encode_with_latents(wav_B1N)[0]

    def decode(self, coarse_BDT: Tensor, fine_BDT: Tensor) -> Tensor:
        """Waveform [B, 1, T * hop_length] float32 of coarse and fine latents."""
        return self.decode_chunk(coarse_BDT, fine_BDT, final=True)[0]

    def decode_codes(self, codes_BKT: Tensor) -> Tensor:
        """Waveform [B, 1, T * hop_length] float32 of codes."""
        return self.decode(self.coarse(codes_BKT[:, 0]), self.fine_from_codes(codes_BKT))

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of description and weights, a vocoder on top left out: equal if and only if tokens are
        interchangeable."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode())
        for name, weight in sorted(self._weights(vocoder=False).items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.numpy().tobytes())
        return digest.hexdigest()

    def save(self, uri: str) -> None:
        """Write `codec.json` and `codec.safetensors` into a folder, and `vocoder.safetensors` in half precision if
        there is a vocoder on top."""
        storage.make_dirs(uri)
        storage.write_bytes(storage.join(uri, WEIGHTS_NAME), safetensors.torch.save(self._weights(vocoder=False)))
        description = {"format": FORMAT, **self.describe(), "fingerprint": self.fingerprint()}
        vocoder = self.describe_vocoder()
        if vocoder is None:
            storage.remove_tree(storage.join(uri, VOCODER_NAME))
        else:
            halves = {name: weight.half() for name, weight in self._weights(vocoder=True).items()}
            packed = safetensors.torch.save(halves)
            storage.write_bytes(storage.join(uri, VOCODER_NAME), packed)
            description["vocoder"] = {"config": vocoder, "sha256": hashlib.sha256(packed).hexdigest()}
        storage.write_json(storage.join(uri, CONFIG_NAME), description)

    def _weights(self, vocoder: bool) -> dict[str, Tensor]:
        """On CPU: the weights that decide what tokens mean, or those of the vocoder on top."""
        return {
            name: weight.detach().cpu().contiguous()
            for name, weight in self.state_dict().items()
            if name.startswith(VOCODER_PREFIX) == vocoder
        }


def load_codec(uri: str) -> Codec:
    """Load a codec from a folder that `Codec.save` wrote (or a bundle, which holds the same files), or a published
    one as transformers lays it out (`config.json`, `model.safetensors`).

    Raises:
        UserError: naming the folder and the remedy, if it holds no codec, one this version cannot read, or a
            damaged one.
    """
    if not storage.exists(storage.join(uri, CONFIG_NAME)) and storage.exists(storage.join(uri, PUBLISHED_CONFIG_NAME)):
        return _load_published(uri)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not storage.exists(storage.join(uri, name)):
            raise UserError(
                f"no codec at {uri}: {name} is missing; fit one with jobs/train_codec.py codec.path={uri}, or give the "
                "folder of a published DAC or EnCodec checkpoint"
            )
    description = storage.read_json(storage.join(uri, CONFIG_NAME))
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"the codec at {uri} is not of format {FORMAT}; fit it again with jobs/train_codec.py")
    codec = _build(storage.join(uri, CONFIG_NAME), description.get("name"), description.get("config"))
    _load_weights(codec, storage.join(uri, WEIGHTS_NAME), "")
    if codec.fingerprint() != description.get("fingerprint"):
        raise UserError(f"the codec at {uri} is damaged: its fingerprint differs from {CONFIG_NAME}; fit it again")
    if "vocoder" in description:
        _load_vocoder(codec, uri, description["vocoder"])
    return codec.eval()


def _load_vocoder(codec: Codec, uri: str, entry: Any) -> None:
    """Put the vocoder that a folder holds on top of its codec."""
    remedy = "train it again with jobs/train_codec.py codec.vocoder=neural"
    weights_uri = storage.join(uri, VOCODER_NAME)
    if not storage.exists(weights_uri):
        raise UserError(f"the codec at {uri} lacks its {VOCODER_NAME}; {remedy}")
    data = storage.read_bytes(weights_uri)
    try:
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"it differs from its digest in {CONFIG_NAME}")
        codec.add_vocoder(entry["config"])
        weights = safetensors.torch.load(data)
        codec.load_state_dict({**codec._weights(vocoder=False), **weights})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights_uri} is damaged or of another version ({reason}); {remedy}") from None


def _load_published(uri: str) -> Codec:
    config = storage.read_json(storage.join(uri, PUBLISHED_CONFIG_NAME))
    codec = _build(storage.join(uri, PUBLISHED_CONFIG_NAME), config.get("model_type"), config)
    _load_weights(codec, storage.join(uri, PUBLISHED_WEIGHTS_NAME), "model.")
    return codec.eval()


def _load_weights(codec: Codec, uri: str, prefix: str) -> None:
    """Load a safetensors file whose names lack `prefix`."""
    try:
        weights = safetensors.torch.load(storage.read_bytes(uri))
        codec.load_state_dict({prefix + name: weight for name, weight in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{uri} is damaged ({reason}); fit or fetch the codec again") from None


def _build(uri: str, name: Any, config: Any) -> Codec:
    from ssmttm.codec.dac import DacCodec
    from ssmttm.codec.encodec import EncodecCodec
    from ssmttm.codec.mini import MiniCodec

    kinds: dict[Any, type[MiniCodec | DacCodec | EncodecCodec]] = {
        "mini": MiniCodec,
        "dac": DacCodec,
        "encodec": EncodecCodec,
    }
    if name not in kinds:
        raise UserError(f"{uri} is of an unknown kind '{name}'; known: {', '.join(kinds)}")
    try:
        return kinds[name].from_description(config)
    except UserError as error:
        raise UserError(f"{uri}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{uri} has a bad config ({reason}); fit or fetch the codec again") from None
