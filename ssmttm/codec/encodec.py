"""EnCodec (arXiv 2210.13438) through transformers' `EncodecModel`, in the layout it is published in: 24 kHz, and
MusicGen's 32 kHz.

Coarse latents are codebook 0's entries, fine latents what they leave of the encoder's output, continuous; both have
the encoder's dimensions (128 as published). Decoding takes their sum as it is. It is not quantised again: choosing the
nearest entries book by book does not find the entries that a sum was made of, so codes would not decode as published.

The decoder is one convolution, an LSTM, and a stack that rises to the sample rate. A stream runs the first two block
by block, with the LSTM's state carried from one block to the next, and the stack on blocks of what comes out, with the
context it reaches. So memory is bounded, though the LSTM remembers everything.

Shapes: B batch, N samples, T code frames, K codebooks, D latent dimensions, H hidden dimensions of the LSTM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssmttm.codec.base import Codec
from ssmttm.codec.blocks import ChunkState, CodecBlock, cut_blocks
from ssmttm.config import CodecConfig
from ssmttm.errors import UserError

if TYPE_CHECKING:
    from transformers import EncodecConfig

LSTM_LAYER = 1  # of the decoder: 0 is a convolution at the code frame rate, what follows rises to the sample rate
LSTM_FRAMES = 16  # code frames that go through the LSTM together: few, since they lie before a whole block of the rest
# Keys of the published config that decide what the weights compute.
IDENTITY = (
    "target_bandwidths",
    "sampling_rate",
    "hidden_size",
    "num_filters",
    "num_residual_layers",
    "upsampling_ratios",
    "norm_type",
    "kernel_size",
    "last_kernel_size",
    "residual_kernel_size",
    "dilation_growth_rate",
    "use_causal_conv",
    "pad_mode",
    "compress",
    "num_lstm_layers",
    "trim_right_ratio",
    "codebook_size",
    "codebook_dim",
    "use_conv_shortcut",
)


def reach(config: EncodecConfig, kernel: int, dilation: int = 1) -> tuple[int, int]:
    """Steps before and after its own that one of the model's convolutions reads."""
    total = (kernel - 1) * dilation
    after = 0 if config.use_causal_conv else total // 2
    return total - after, after


def context_frames(config: EncodecConfig) -> tuple[int, int]:
    """Frames before and after its own that a frame's audio depends on, counted from the LSTM's output.

    Followed back from the last layer. A transposed convolution of stride s and kernel 2 s reads one step before the one
    it stands on and, unless all its padding is trimmed on the right, one after.
    """
    before, after = reach(config, config.last_kernel_size)
    for ratio in reversed(config.upsampling_ratios):
        for layer in range(config.num_residual_layers):
            more = reach(config, config.residual_kernel_size, config.dilation_growth_rate**layer)
            before, after = before + more[0], after + more[1]
        causal = config.use_causal_conv and config.trim_right_ratio == 1
        before, after = math.ceil(before / ratio) + 1, math.ceil(after / ratio) + (0 if causal else 1)
    return before, after


@dataclass(frozen=True)
class EncodecDecodeState:
    """A stream's decoder between two chunks: latents not yet through the LSTM, its state (hidden and cell [layers, B,
    H]; None before the first block), and its outputs not yet heard."""

    latents: ChunkState | None = None
    lstm: tuple[Tensor, Tensor] | None = None
    hidden: ChunkState | None = None


class EncodecCodec(Codec):
    """See the module.

    Args:
        config: of the published model.

    Raises:
        UserError: for a variant whose audio cannot be made in chunks (48 kHz: stereo, normalised over each second).
    """

    name = published_as = "encodec"

    def __init__(self, config: EncodecConfig):
        super().__init__()
        from transformers import EncodecModel

        wanted = {"audio_channels": 1, "normalize": False, "chunk_length_s": None, "norm_type": "weight_norm"}
        for name, value in wanted.items():
            if (found := getattr(config, name)) != value:
                raise UserError(
                    f"EnCodec with {name}={found} is not supported; take the 24 kHz or the 32 kHz checkpoint, "
                    f"which have {name}={value}"
                )
        assert config.kernel_size <= LSTM_FRAMES, "a stream's first block must hold what is mirrored at its beginning"
        self.model = EncodecModel(config)
        self.sample_rate, self.hop_length = config.sampling_rate, math.prod(config.upsampling_ratios)
        self.num_codebooks, self.codebook_size = config.num_quantizers, config.codebook_size
        self.coarse_dim = self.fine_dim = config.hidden_size
        self.hidden_dim = config.num_filters * 2 ** len(config.upsampling_ratios)
        self.first_context = reach(config, config.kernel_size)
        self.context = context_frames(config)

    @classmethod
    def from_description(cls, config: dict[str, Any]) -> EncodecCodec:
        from transformers import EncodecConfig

        return cls(EncodecConfig.from_dict(config))

    @classmethod
    def latent_dims(cls, config: CodecConfig) -> tuple[int, int]:
        from transformers import EncodecConfig

        return EncodecConfig().hidden_size, EncodecConfig().hidden_size

    def describe(self) -> dict[str, Any]:
        values = {name: getattr(self.model.config, name) for name in IDENTITY}
        lists = {name: list(values[name]) for name in ("target_bandwidths", "upsampling_ratios")}
        return {"name": self.name, "config": {**values, **lists}}

    @torch.no_grad()
    def encode_with_latents(self, wav_B1N: Tensor) -> tuple[Tensor, Tensor]:
        embedding_BDT = self._embedding(wav_B1N)
        codes_BKT = self.model.quantizer.encode(embedding_BDT).transpose(0, 1)
        return codes_BKT, embedding_BDT - self.coarse(codes_BKT[:, 0])

    def coarse(self, codes0_BT: Tensor) -> Tensor:
        return self._entries(0, codes0_BT)

    @torch.no_grad()
    def fine(self, wav_B1N: Tensor, codes_BKT: Tensor) -> Tensor:
        return self._embedding(wav_B1N) - self.coarse(codes_BKT[:, 0])

    def fine_from_codes(self, codes_BKT: Tensor) -> Tensor:
        fine_BDT = torch.zeros_like(self.coarse(codes_BKT[:, 0]))
        for book in range(1, codes_BKT.shape[1]):
            fine_BDT += self._entries(book, codes_BKT[:, book])
        return fine_BDT

    @torch.no_grad()
    def decode_chunk(
        self, coarse_BDT: Tensor, fine_BDT: Tensor, state: EncodecDecodeState | None = None, final: bool = False
    ) -> tuple[Tensor, EncodecDecodeState]:
        latents_BDT = coarse_BDT + fine_BDT
        state = state or EncodecDecodeState()
        blocks, latents = cut_blocks(latents_BDT, state.latents, *self.first_context, final, LSTM_FRAMES)
        lstm, fresh = state.lstm, [latents_BDT.new_zeros(len(latents_BDT), self.hidden_dim, 0)]
        for block in blocks:
            hidden_BHT, lstm = self._recur(block, lstm)
            fresh.append(hidden_BHT)
        blocks, hidden = cut_blocks(torch.cat(fresh, dim=-1), state.hidden, *self.context, final)
        pieces = [latents_BDT.new_zeros(len(latents_BDT), 1, 0), *map(self._rise, blocks)]
        return torch.cat(pieces, dim=-1), EncodecDecodeState(latents, lstm, hidden)

    def _embedding(self, wav_B1N: Tensor) -> Tensor:
        """The encoder's output [B, D, T]."""
        return self.model.encoder(nn.functional.pad(wav_B1N, (0, -wav_B1N.shape[-1] % self.hop_length)))

    def _entries(self, book: int, codes_BT: Tensor) -> Tensor:
        """Entries [B, D, T] of one codebook."""
        layer: Any = self.model.quantizer.layers[book]
        return layer.decode(codes_BT)

    def _recur(self, block: CodecBlock, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The LSTM's output [B, H, owned] for a block's own frames, its input added as the model does, and its
        state after them."""
        layers: Any = self.model.decoder.layers
        input_BHT = layers[0](block.frames_BDT)[..., block.context : block.context + block.owned]
        input_TBH = input_BHT.permute(2, 0, 1).contiguous()
        output_TBH, state = layers[LSTM_LAYER].lstm(input_TBH, state)
        return (output_TBH + input_TBH).permute(1, 2, 0), state

    def _rise(self, block: CodecBlock) -> Tensor:
        """Audio [B, 1, owned * hop] of a block's own frames of the LSTM's output."""
        wav_B1N = block.frames_BDT
        for layer in self.model.decoder.layers[LSTM_LAYER + 1 :]:
            wav_B1N = layer(wav_B1N)
        return wav_B1N[..., block.context * self.hop_length : (block.context + block.owned) * self.hop_length]
