"""Our backbones beside their rivals: training, decoding and memory, measured side by side in one run.

    python tests/benchmarks/language_models.py [--size 5M] [--contexts 512,2048,8192,30000] [--threads 1]

Rounds go through all candidates in turn, so that a slow moment of the machine meets them all; figures are medians.
Weights are random. The result goes to results/language_models-SIZE.json beside this file, with the machine's
description.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import ssmttm
from ssmttm.config import Stage1Config
from ssmttm.model import costs
from ssmttm.model.attention import AttentionState
from ssmttm.model.lm import LMState, MusicLM
from ssmttm.model.text import TextBatch
from ssmttm.training.engine import denormals_as_zero, tune_allocator, use_bf16_on_cpu

RESULTS = Path(__file__).parent / "results"
SHAPE = costs.Shape(codebook_size=1024, text_dim=384, coarse_dim=128)
SIZES = {"5M": {"width": 256, "layers": 6}, "paper": {"width": 1024, "layers": 24}}
COMMON = {"state_size": 64, "head_dim": 64, "expand": 2, "dropout": 0.0, "token_dropout": 0.0, "pooled": False}
BACKBONES = ("prefix_simba", "prefix_mamba", "cross_simba", "cross_transformer", "prefix_transformer")
TEXT_TOKENS = 32
ROOM = 1024  # frames beyond a context, so that no cache grows while it is measured


@dataclass
class Candidate:
    """One line of the table. `train(L)` gives a function that takes one optimizer step on sequences of L frames;
    `decode(context)` one that computes the next frame at that context, and the bytes its state holds."""

    name: str
    parameters: int
    train: Callable[[int], Callable[[], None]]
    decode: Callable[[int], tuple[Callable[[], None], int]] | None


def text(batch: int) -> TextBatch:
    return TextBatch(
        torch.randn(batch, TEXT_TOKENS, SHAPE.text_dim),
        torch.ones(batch, TEXT_TOKENS, dtype=torch.bool),
        torch.randn(batch, SHAPE.text_dim),
        torch.zeros(batch, dtype=torch.bool),
    )


def optimizer_step(module: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16_on_cpu()):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def state_at(lm: MusicLM, state: LMState, context: int) -> LMState:
    """The state as after `context` frames: attention caches get random keys and values of that length, as what they
    hold does not change what a step costs; the state of an SSM has its size from the start."""
    blocks = []
    for block in state.blocks:
        first = block.first
        if isinstance(first, AttentionState):
            batch, heads, _, width = first.keys_BHCP.shape
            places = (batch, heads, context + ROOM, width)
            mask = torch.ones(batch, context + ROOM, dtype=torch.bool)
            first = AttentionState(torch.randn(places), torch.randn(places), mask, context)
        blocks.append(block._replace(first=first))
    return LMState(blocks, torch.full_like(state.position_B, context), state.pooled_LBD, state.table_KVD)


def ours(backbone: str, size: str, batch: int, compiled: bool, state_size: int) -> Candidate:
    config = Stage1Config(backbone=backbone, **SIZES[size], **{**COMMON, "state_size": state_size})
    torch.manual_seed(0)
    lm = MusicLM(config, SHAPE.codebook_size, SHAPE.text_dim, torch.randn(SHAPE.codebook_size, SHAPE.coarse_dim))

    def train(length: int) -> Callable[[], None]:
        codes, prompt = torch.randint(0, SHAPE.codebook_size, (batch, 1, length)), text(batch)
        lm.train()
        return optimizer_step(lm, lambda: F.cross_entropy(lm(codes, prompt).flatten(0, -2).float(), codes.flatten()))

    @torch.inference_mode()
    def decode(context: int) -> tuple[Callable[[], None], int]:
        lm.eval()
        lm.compile_steps(compiled)
        _, state = lm.prefill(text(1))
        holder = [state_at(lm, state, context)]
        held = costs._bytes(holder[0].blocks)
        token = torch.zeros(1, 1, dtype=torch.long)

        @torch.inference_mode()
        def step() -> None:
            _, holder[0] = lm.step(token, holder[0])

        return step, held

    name = backbone if state_size == COMMON["state_size"] else f"{backbone}, state {state_size}"
    return Candidate(name, costs.trainable_parameters(lm), train, decode)


def transformers_mamba2(size: str, batch: int) -> Candidate:
    from transformers import Mamba2Config, Mamba2Model

    width, layers = SIZES[size]["width"], SIZES[size]["layers"]
    config = Mamba2Config(
        vocab_size=SHAPE.codebook_size + 1,
        hidden_size=width,
        num_hidden_layers=2 * layers,  # blocks without an MLP: two stand for one of ours
        state_size=COMMON["state_size"],
        head_dim=COMMON["head_dim"],
        num_heads=2 * width // COMMON["head_dim"],
        n_groups=1,
        chunk_size=64,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = Mamba2Model(config)

    def train(length: int) -> Callable[[], None]:
        codes = torch.randint(0, SHAPE.codebook_size, (batch, TEXT_TOKENS + length))
        model.train()
        table = model.get_input_embeddings().weight

        def loss() -> torch.Tensor:
            logits = model(input_ids=codes).last_hidden_state @ table.T
            return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())

        return optimizer_step(model, loss)

    return Candidate("transformers Mamba2Model", costs.trainable_parameters(model), train, None)


def transformers_musicgen(size: str, batch: int) -> Candidate:
    from transformers import DynamicCache, EncoderDecoderCache, MusicgenDecoderConfig, MusicgenForCausalLM

    width, layers = SIZES[size]["width"], SIZES[size]["layers"]
    config = MusicgenDecoderConfig(
        vocab_size=SHAPE.codebook_size,
        hidden_size=width,
        num_hidden_layers=layers,
        ffn_dim=4 * width,
        num_attention_heads=width // COMMON["head_dim"],
        num_codebooks=1,
        max_position_embeddings=65_536,
        dropout=0.0,
    )
    torch.manual_seed(0)
    model = MusicgenForCausalLM(config)

    def train(length: int) -> Callable[[], None]:
        codes, states = torch.randint(0, SHAPE.codebook_size, (batch, length)), torch.randn(batch, TEXT_TOKENS, width)
        model.train()

        def loss() -> torch.Tensor:
            logits = model(input_ids=codes, encoder_hidden_states=states, use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, -2).float(), codes.flatten())

        return optimizer_step(model, loss)

    @torch.inference_mode()
    def decode(context: int) -> tuple[Callable[[], None], int]:
        model.eval()
        states, token = torch.randn(1, TEXT_TOKENS, width), torch.zeros(1, 1, dtype=torch.long)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        heads = width // COMMON["head_dim"]
        for layer in range(layers):
            past = torch.randn(1, heads, context, COMMON["head_dim"])
            cache.self_attention_cache.update(past, past.clone(), layer)
        held = 2 * layers * width * context * 4

        @torch.inference_mode()
        def step() -> None:
            model(input_ids=token, encoder_hidden_states=states, past_key_values=cache, use_cache=True)

        return step, held

    return Candidate("transformers MusicGen", costs.trainable_parameters(model), train, decode)


def timed(functions: dict[str, Callable[[], None]], rounds: int, repeats: int) -> dict[str, float]:
    """Median seconds of one call of each, over rounds that go through all of them in turn."""
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(3):  # compiles at the first, and again where a length turns out to change
            function()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            samples[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in samples.items()}


def machine(threads: int) -> dict[str, Any]:
    model = platform.processor()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "torch": torch.__version__,
        "ssmttm": ssmttm.__version__,
        "bf16": use_bf16_on_cpu(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="5M")
    parser.add_argument("--contexts", default="512,2048,8192,30000", help="of decoding, in frames")
    parser.add_argument("--lengths", default="512,2048", help="of training sequences, in frames; empty: none")
    parser.add_argument("--batch", type=int, default=4, help="sequences in a training step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="names of the backbones of ours to take, by commas; no rivals")
    parser.add_argument("--eager", action="store_true", help="decode without torch.compile")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_allocator()
    compiled, only = not arguments.eager, [name for name in arguments.only.split(",") if name]
    sizes = [(name, COMMON["state_size"]) for name in only or BACKBONES] + [
        ("prefix_simba", 128),
        ("prefix_simba", 512),
    ]
    candidates = [ours(name, arguments.size, arguments.batch, compiled, state_size) for name, state_size in sizes]
    rivals = () if only else (transformers_mamba2, transformers_musicgen)
    candidates += [make(arguments.size, arguments.batch) for make in rivals]
    table: dict[str, dict[str, Any]] = {
        one.name: {"parameters": one.parameters, "decode_ms": {}, "state_bytes": {}, "train_ms": {}}
        for one in candidates
    }
    for context in map(int, arguments.contexts.split(",")):
        made = {one.name: one.decode(context) for one in candidates if one.decode is not None}
        seconds = timed({name: step for name, (step, _) in made.items()}, arguments.rounds, 20)
        for name, value in seconds.items():
            table[name]["decode_ms"][context] = round(1e3 * value, 3)
            table[name]["state_bytes"][context] = made[name][1]
            print(f"decode  context {context:6}  {name:26} {1e3 * value:8.3f} ms/frame  {made[name][1]:12,} bytes")
        made.clear()
        gc.collect()
    for length in map(int, filter(None, arguments.lengths.split(","))):
        with denormals_as_zero():
            seconds = timed({one.name: one.train(length) for one in candidates}, arguments.rounds, 1)
        for name, value in seconds.items():
            table[name]["train_ms"][length] = round(1e3 * value, 1)
            rate = arguments.batch * length / value
            print(f"train   length  {length:6}  {name:26} {1e3 * value:8.1f} ms/step   {rate:10,.0f} frames/s")
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(arguments.threads), "settings": vars(arguments), "candidates": table}
    out = RESULTS / f"language_models-{arguments.size}.json"
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
