"""What language_models.py measures: our backbones and their rivals, of one width and one number of parameters.

Each has as many layers as bring it nearest to `prefix_simba`; weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ssmttm.conditions.base import Conditions, TokenStates
from ssmttm.config import Stage1Config
from ssmttm.hardware import multiplies_bf16
from ssmttm.model import costs
from ssmttm.model.lm import LMState, MusicLM
from ssmttm.model.mixers.attention import AttentionState
from ssmttm.model.step_graph import capture

SHAPE = costs.Shape(codebook_size=1024, text_dim=384, coarse_dim=128)
SIZES = {"5M": (256, 6), "paper": (1024, 24)}  # width, and layers of prefix_simba
COMMON = {"head_dim": 64, "expand": 2, "dropout": 0.0, "token_dropout": 0.0, "pooled": False}
STATE_SIZE = 64
BACKBONES = ("prefix_simba", "prefix_mamba", "cross_simba", "cross_transformer", "prefix_transformer")
TEXT_TOKENS = 32
ROOM = 160  # frames beyond a context for those that are measured; a fixed cache attends to all its places

Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What all candidates of a run share. `compiled`: torch.compile for the decoding steps of all, on CPU."""

    size: str
    device: torch.device
    batch: int
    compiled: bool

    @property
    def width(self) -> int:
        return SIZES[self.size][0]

    @cached_property
    def parameters(self) -> int:
        """What all candidates should have."""
        width, layers = SIZES[self.size]
        return parameters(lambda: our_lm("prefix_simba", STATE_SIZE, width, layers))

    def layers(self, build: Callable[[int], nn.Module]) -> int:
        """How many layers bring a model nearest to the common number of parameters."""
        one, two = (parameters(lambda layers=layers: build(layers)) for layers in (1, 2))
        return round((self.parameters - one) / (two - one)) + 1

    def text(self, batch: int) -> Conditions:
        text = TokenStates(
            torch.randn(batch, TEXT_TOKENS, SHAPE.text_dim),
            torch.ones(batch, TEXT_TOKENS, dtype=torch.bool),
            torch.randn(batch, SHAPE.text_dim),
            torch.zeros(batch, dtype=torch.bool),
        )
        return Conditions({"text": text}).to(self.device)

    def codes(self, batch: int, length: int) -> torch.Tensor:
        return torch.randint(0, SHAPE.codebook_size, (batch, length), device=self.device)

    def optimizer_step(self, module: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
        """Forward, backward and AdamW in bf16 autocast over fp32 weights (fp32 on a CPU without bf16)."""
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
        autocast = self.device.type == "cuda" or multiplies_bf16("cpu")

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step


@dataclass
class Candidate:
    """A built model. `train(L)` gives one optimizer step on sequences of L frames; `decode(context)` the computation
    of the next frame of one stream at that context, and the bytes its state holds. `train_flops(L)`: counted, of one
    step; None where it is not."""

    module: nn.Module
    train: Callable[[int], Step] | None
    decode: Callable[[int], tuple[Step, int]] | None
    train_flops: Callable[[int], float] | None = None

    layers: int = 0

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.module.state_dict().values())


def parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return costs.trainable_parameters(build())


def our_lm(backbone: str, state_size: int, width: int, layers: int) -> MusicLM:
    config = Stage1Config(backbone=backbone, state_size=state_size, width=width, layers=layers, **COMMON)
    features = torch.randn(SHAPE.codebook_size, SHAPE.coarse_dim)
    return MusicLM(config, SHAPE.codebook_size, {"text": SHAPE.text_dim}, features)


def state_at(lm: MusicLM, state: LMState, context: int) -> LMState:
    """The state as after `context` frames: attention caches get random keys and values of that length, as what they
    hold does not change what a step costs; the state of an SSM has its size from the start."""
    blocks = []
    for block in state.blocks:
        first = block.first
        if isinstance(first, AttentionState):
            batch, heads, _, width = first.keys_BHCP.shape
            places = (batch, heads, context + ROOM, width)
            like = {"dtype": first.keys_BHCP.dtype, "device": first.keys_BHCP.device}
            mask = torch.ones(batch, context + ROOM, dtype=torch.bool, device=first.keys_BHCP.device)
            first = AttentionState(torch.randn(places, **like), torch.randn(places, **like), mask, context)
        blocks.append(block._replace(first=first))
    return LMState(blocks, torch.full_like(state.position_B, context), state.pooled_LBD, state.table_KVD)


def ours(setting: Setting, backbone: str, state_size: int = STATE_SIZE, precision: str = "fp32") -> Candidate:
    width, layers = SIZES[setting.size]
    if backbone != "prefix_simba":
        layers = setting.layers(lambda layers: our_lm(backbone, state_size, width, layers))
    torch.manual_seed(0)
    lm = our_lm(backbone, state_size, width, layers).to(setting.device)
    if precision != "fp32":
        lm.narrow(precision)

    def train(length: int) -> Step:
        codes, prompt = setting.codes(setting.batch, length)[:, None], setting.text(setting.batch)
        lm.train()
        return setting.optimizer_step(
            lm, lambda: F.cross_entropy(lm(codes, prompt).flatten(0, -2).float(), codes.flatten())
        )

    @torch.inference_mode()
    def decode(context: int) -> tuple[Step, int]:
        lm.eval()
        lm.compile_steps(setting.compiled)
        _, state = lm.prefill(setting.text(1))
        holder = [state_at(lm, state, context)]
        held = costs.bytes_kept(lm, holder[0].blocks)[0]
        token = torch.zeros(1, 1, dtype=torch.long, device=setting.device)
        graph = capture(lm, holder[0])
        if graph is not None:
            return lambda: graph(token), held

        @torch.inference_mode()
        def step() -> None:
            _, holder[0] = lm.step(token, holder[0])

        return step, held

    def train_flops(length: int) -> float:
        return setting.batch * length * costs.train_costs(lm.config, SHAPE, length).flops_per_frame

    return Candidate(lm, train if precision == "fp32" else None, decode, train_flops, layers)


def mamba2_model(width: int, layers: int) -> nn.Module:
    from transformers import Mamba2Config, Mamba2Model

    config = Mamba2Config(
        vocab_size=SHAPE.codebook_size + 1,
        hidden_size=width,
        num_hidden_layers=layers,
        state_size=STATE_SIZE,
        head_dim=COMMON["head_dim"],
        num_heads=2 * width // COMMON["head_dim"],
        n_groups=1,
        chunk_size=64,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Mamba2Model(config)


def transformers_mamba2(setting: Setting) -> Candidate:
    layers = setting.layers(lambda layers: mamba2_model(setting.width, layers))
    torch.manual_seed(0)
    model: Any = mamba2_model(setting.width, layers).to(setting.device)

    def train(length: int) -> Step:
        codes = setting.codes(setting.batch, TEXT_TOKENS + length)
        model.train()
        table = model.get_input_embeddings().weight

        def loss() -> torch.Tensor:
            logits = model(input_ids=codes).last_hidden_state @ table.T
            return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())

        return setting.optimizer_step(model, loss)

    @torch.inference_mode()
    def decode(_: int) -> tuple[Step, int]:
        model.eval()
        cache = model(input_ids=setting.codes(1, TEXT_TOKENS), use_cache=True).cache_params
        token = torch.zeros(1, 1, dtype=torch.long, device=setting.device)
        forward = torch.compile(model.forward) if setting.compiled else model.forward

        @torch.inference_mode()
        def step() -> None:
            forward(input_ids=token, cache_params=cache, use_cache=True)

        held = [[*layer.conv_states.values(), *layer.recurrent_states.values()] for layer in cache.layers]
        return step, sum(tensor.nbytes for layer in held for tensor in layer)

    return Candidate(model, train, decode, layers=layers)


def musicgen_decoder(width: int, layers: int, num_codebooks: int, codebook_size: int) -> nn.Module:
    """transformers' MusicGen decoder; published sizes of MusicGen-small: 1024, 24, 4, 2048."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    config = MusicgenDecoderConfig(
        vocab_size=codebook_size,
        hidden_size=width,
        num_hidden_layers=layers,
        ffn_dim=4 * width,
        num_attention_heads=width // COMMON["head_dim"],
        num_codebooks=num_codebooks,
        max_position_embeddings=65_536,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=0,
    )
    return MusicgenForCausalLM(config)


def musicgen_step(model: Any, text_BTD: torch.Tensor, context: int, compiled: bool = False) -> tuple[Step, int]:
    """The next frame after `context` frames, with a cache of fixed places (the faster of transformers' two), and the
    bytes of the keys and values so far."""
    from transformers import DynamicCache, EncoderDecoderCache, StaticCache

    config, batch = model.config, len(text_BTD)
    own = StaticCache(config=config, max_cache_len=context + ROOM)
    head_dim = config.hidden_size // config.num_attention_heads
    past = torch.randn(batch, config.num_attention_heads, context, head_dim).to(text_BTD)
    for layer in range(config.num_hidden_layers):
        own.update(past, past, layer)
    cache = EncoderDecoderCache(own, DynamicCache())
    tokens = torch.zeros(batch * config.num_codebooks, 1, dtype=torch.long, device=text_BTD.device)
    forward = torch.compile(model.forward) if compiled else model.forward

    @torch.inference_mode()
    def step() -> None:
        forward(input_ids=tokens, encoder_hidden_states=text_BTD, past_key_values=cache, use_cache=True)

    return step, 2 * config.num_hidden_layers * past.nbytes


def transformers_musicgen(setting: Setting) -> Candidate:
    width = setting.width
    layers = setting.layers(lambda layers: musicgen_decoder(width, layers, 1, SHAPE.codebook_size))
    torch.manual_seed(0)
    model = musicgen_decoder(width, layers, 1, SHAPE.codebook_size).to(setting.device)

    def train(length: int) -> Step:
        codes = setting.codes(setting.batch, length)
        states = torch.randn(setting.batch, TEXT_TOKENS, width, device=setting.device)
        model.train()

        def loss() -> torch.Tensor:
            logits = model(input_ids=codes, encoder_hidden_states=states, use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, -2).float(), codes.flatten())

        return setting.optimizer_step(model, loss)

    @torch.inference_mode()
    def decode(context: int) -> tuple[Step, int]:
        model.eval()
        return musicgen_step(
            model, torch.randn(1, TEXT_TOKENS, width, device=setting.device), context, setting.compiled
        )

    return Candidate(model, train, decode, layers=layers)


def candidates(only: list[str]) -> dict[str, Callable[[Setting], Candidate]]:
    """What makes each, by the name of its line in the table."""
    makers: dict[str, Callable[[Setting], Candidate]] = {
        name: (lambda setting, name=name: ours(setting, name)) for name in BACKBONES
    }
    makers |= {
        f"prefix_simba, state {size}": (lambda setting, size=size: ours(setting, "prefix_simba", size))
        for size in (128, 512)
    }
    makers |= {
        f"prefix_simba, {precision}": (lambda setting, p=precision: ours(setting, "prefix_simba", precision=p))
        for precision in ("bf16", "int8")
    }
    makers |= {"transformers Mamba2Model": transformers_mamba2, "transformers MusicGen": transformers_musicgen}
    unknown = set(only) - set(makers)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(makers)}")
    return {name: make for name, make in makers.items() if not only or name in only}
