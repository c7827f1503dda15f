"""What a model costs, counted by running its own code on tensors that have shapes but no memory.

Floating-point operations are those of matrix products, convolutions and attention (two per multiply-add), forward and,
for training, backward. Costs grow linearly with the number of layers, so one and two layers are run and the rest is
extrapolated, exactly.

Shapes: B batch, K codebooks, S steps, T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssmttm.conditions.base import Conditions, TokenStates
from ssmttm.config import Stage1Config
from ssmttm.model.lm import Block, BlockState, MusicLM

TEXT_TOKENS = 32  # of a typical caption
FP32, BF16 = 4, 2  # bytes
OPTIMIZER_BYTES = 3 * FP32  # gradient and both AdamW moments of a parameter


@dataclass(frozen=True)
class Shape:
    """What a language model's sizes depend on besides its own configuration."""

    codebook_size: int
    text_dim: int
    coarse_dim: int


@dataclass(frozen=True)
class DecodeCosts:
    """Of one frame of one stream, at a context: `state_bytes` is what the stream must keep (fp32), `flops` one forward
    step, `bytes_moved` the weights read once in bf16 and the state read and, if it changes, written; `guided` adds the
    unconditional row, which shares the weights."""

    state_bytes: int
    flops: int
    bytes_moved: int
    guided_bytes_moved: int


@dataclass(frozen=True)
class TrainCosts:
    """Of training on sequences of a length: operations per frame (forward and backward), and the memory for weights,
    gradients, optimizer and activations kept for the backward pass (bf16 autocast over fp32 weights)."""

    flops_per_frame: float
    fixed_bytes: int
    bytes_per_sequence: int


def trainable_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def build(config: Stage1Config, shape: Shape, device: str = "meta") -> MusicLM:
    """The language model without memory behind it (`meta`), or real with random weights."""
    with torch.device(device):
        features = torch.empty(shape.codebook_size, shape.coarse_dim) if config.codebook_features else None
        return MusicLM(config, shape.codebook_size, {"text": shape.text_dim}, features)


def sample_conditions(shape: Shape, tokens: int) -> Conditions:
    text = TokenStates(
        torch.empty(1, tokens, shape.text_dim),
        torch.ones(1, tokens, dtype=torch.bool),
        torch.empty(1, shape.text_dim),
        torch.zeros(1, dtype=torch.bool),
    )
    return Conditions({"text": text})


def bytes_kept(lm: MusicLM, states: Sequence[BlockState]) -> tuple[int, int]:
    """What a stream must keep of its blocks' states, and how much of that steps write, in bytes."""

    def size(tensors: list[Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    kept = written = 0
    for block, state in zip(cast(list[Block], lm.blocks), states, strict=True):
        mixers, prefix = block.kept(state)
        kept += size(mixers) + size(prefix)
        written += size(mixers) if block.fixed_state else 0
    return kept, written


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """A counter of operations that sees attention too: written out, for what is fused on a CPU has no formula."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


def _by_layers(config: Stage1Config, measure: Callable[[Stage1Config], dict[str, int]]) -> dict[str, int]:
    one, two = (measure(config.model_copy(update={"layers": layers})) for layers in (1, 2))
    return {name: one[name] + (config.layers - 1) * (two[name] - one[name]) for name in one}


def decode_costs(config: Stage1Config, shape: Shape, context: int) -> DecodeCosts:
    """Costs of the next frame after `context` frames."""

    def measure(config: Stage1Config) -> dict[str, int]:
        with FakeTensorMode(), torch.no_grad():
            lm = build(config, shape, "cpu").eval()
            _, state = lm.prefill(sample_conditions(shape, TEXT_TOKENS))
            if context:
                _, state = lm.read(torch.zeros(1, config.num_codebooks, context, dtype=torch.long), state)
            with counting() as counter:
                lm.step(torch.zeros(1, config.num_codebooks, dtype=torch.long), state)
            # One row of an embedding is read, all of every other matrix.
            weights = trainable_parameters(lm) - (0 if config.tie_head else lm.token_table.numel())
            kept, written = bytes_kept(lm, state.blocks)
            return {"state": kept, "flops": counter.get_total_flops(), "weights": weights, "moved": kept + written}

    counted = _by_layers(config, measure)
    weights = BF16 * counted["weights"]
    return DecodeCosts(counted["state"], counted["flops"], weights + counted["moved"], weights + 2 * counted["moved"])


def train_costs(config: Stage1Config, shape: Shape, frames: int) -> TrainCosts:
    """Costs of training on sequences of `frames` frames."""

    def measure(config: Stage1Config) -> dict[str, int]:
        return kept_bytes(config) | {"flops": operations(config)}

    def loss(lm: MusicLM) -> Tensor:
        codes_BKS = torch.zeros(1, config.num_codebooks, frames, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            logits_BKSV = lm(codes_BKS, sample_conditions(shape, TEXT_TOKENS))
        return F.cross_entropy(logits_BKSV.flatten(0, -2).float(), codes_BKS.flatten())

    def operations(config: Stage1Config) -> int:
        with FakeTensorMode():
            lm = build(config, shape, "cpu").train()
            with counting() as counter:
                loss(lm).backward()
        return counter.get_total_flops()

    def kept_bytes(config: Stage1Config) -> dict[str, int]:
        kept: dict[int, Tensor] = {}
        with FakeTensorMode():
            lm = build(config, shape, "cpu").train()
            own = {parameter.untyped_storage()._cdata for parameter in lm.parameters()}

            def keep(tensor: Tensor) -> Tensor:
                kept[tensor.untyped_storage()._cdata] = tensor
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss(lm)
            activations = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)
            return {"activations": activations, "parameters": trainable_parameters(lm)}

    counted = _by_layers(config, measure)
    fixed = counted["parameters"] * (FP32 + OPTIMIZER_BYTES)
    return TrainCosts(counted["flops"] / frames, fixed, counted["activations"])


def musicgen_small_training_flops() -> float:
    """Operations that training MusicGen-small took: its published decoder, forward and backward on 30 s (1,500 frames
    of 4 codebooks), 1 M steps of 192 sequences (arXiv 2306.05284, section 4.2)."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    frames, steps, batch = 1500, 1_000_000, 192

    def measure(layers: int) -> int:
        config = MusicgenDecoderConfig(
            vocab_size=2048,
            hidden_size=1024,
            num_hidden_layers=layers,
            ffn_dim=4096,
            num_attention_heads=16,
            num_codebooks=4,
            audio_channels=1,
        )
        with FakeTensorMode():
            decoder = MusicgenForCausalLM(config)
            with counting() as counter:
                logits = decoder(
                    input_ids=torch.zeros(4, frames, dtype=torch.long),
                    encoder_hidden_states=torch.empty(1, TEXT_TOKENS, 1024),
                    use_cache=False,
                ).logits
                logits.sum().backward()
        return counter.get_total_flops()

    one, two = measure(1), measure(2)
    return float(one + 23 * (two - one)) * steps * batch
