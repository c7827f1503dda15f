"""Seconds of compute per second of music for stage 1 at the papers' size, guided, beside MusicGen-small's decoder.

    python tests/benchmarks/guided_decoding.py [--threads 2] [--device cuda] [--bundle runs/demo/bundle]

One stream with guidance (two rows). Ours: the presets `paper` and `paper-state128` (DAC, 86 frames a second), compiled
on CPU, one CUDA graph a step on a GPU. The rival: transformers' MusicGen decoder of the published small size in bf16,
50 frames of four codebooks a second, with its static cache. Also what recomputing the whole sequence for every frame
takes at ten seconds. Weights are random, which changes no cost. With a trained bundle, the mean next-token KL of each
precision to fp32 on music that it makes itself is measured too.
The result goes to results/guided_decoding.json, with the machine's description.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from candidates import Step, musicgen_decoder, musicgen_step
from measuring import machine, timed

from ssmttm import config as configuration
from ssmttm.conditions.base import Conditions
from ssmttm.hardware import tune_allocator
from ssmttm.model import costs
from ssmttm.model.lm import MusicLM
from ssmttm.model.step_graph import capture

RESULTS = Path(__file__).parent / "results"
SHAPE = costs.Shape(codebook_size=1024, text_dim=768, coarse_dim=8)
OURS = (("paper", "fp32"), ("paper", "int8"), ("paper-state128", "fp32"), ("paper-state128", "bf16"),
        ("paper-state128", "int8"))  # fmt: skip
MUSICGEN_RATE, SECONDS = 50, (30, 120)
FRAME_RATE = 44_100 / 512
RECOMPUTED_SECONDS = 10


def guided_text(device: torch.device) -> Conditions:
    text = costs.sample_conditions(SHAPE, costs.TEXT_TOKENS)
    random = {name: torch.randn_like(getattr(text["text"], name)) for name in ("states_BSD", "pooled_BD")}
    text = Conditions({"text": replace(text["text"], **random)})
    return Conditions.cat(text, text.as_null()).to(device)


def build(preset: str, precision: str, device: torch.device) -> MusicLM:
    torch.manual_seed(0)
    config = configuration.load(preset).stage1.model_copy(update={"max_frames": 0})
    lm = costs.build(config, SHAPE, "cpu").eval().requires_grad_(False).to(device)
    if precision != "fp32":
        lm.narrow(precision)
    return lm


@torch.inference_mode()
def our_step(lm: MusicLM, device: torch.device) -> Step:
    lm.compile_steps(device.type == "cpu")
    holder = [lm.prefill(guided_text(device))[1]]
    tokens = torch.zeros(2, 1, dtype=torch.long, device=device)
    graph = capture(lm, holder[0])
    if graph is not None:
        return lambda: graph(tokens)

    @torch.inference_mode()
    def step() -> None:
        _, holder[0] = lm.step(tokens, holder[0])

    return step


@torch.inference_mode()
def recomputation(lm: MusicLM, device: torch.device) -> Step:
    """The next frame from a forward pass over all so far, in bf16, as the papers' public code does it."""
    codes = torch.zeros(2, 1, round(RECOMPUTED_SECONDS * FRAME_RATE), dtype=torch.long, device=device)
    text = guided_text(device)

    @torch.inference_mode()
    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            lm(codes, text)

    return step


@torch.inference_mode()
def divergences(bundle: str) -> dict[str, float]:
    """Mean KL(fp32 || precision) of the next code, in nats, over ten seconds of four prompts."""
    from ssmttm.conditions.base import Conditions
    from ssmttm.engine.generator import Generator
    from ssmttm.engine.piece import Piece
    from ssmttm.engine.request import MusicRequest
    from ssmttm.engine.slots import SlotBatch

    generator = Generator.load(bundle, "cpu")
    lm, frames = generator.bundle.lm, round(10 * generator.frame_rate)
    prompts = ["calm piano, slow", "fast techno with a hard kick", "jazz with vibraphone", "rock, electric guitar"]
    requests = [MusicRequest(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    pieces = [Piece.of(generator.bundle, request, frames) for request in requests]
    codes, text = SlotBatch.of(lm, pieces).read(frames), Conditions.cat(*(piece.conditions for piece in pieces))
    expected = lm(codes, text).double().log_softmax(-1)
    found = {}
    for precision in ("bf16", "int8"):
        narrow = copy.deepcopy(lm)
        narrow.narrow(precision)
        logits, state = narrow.prefill(text)
        stepped = [logits]
        for frame in codes[:, :, :-1].unbind(-1):
            logits, state = narrow.step(frame, state)
            stepped.append(logits)
        log_p = torch.stack(stepped, dim=2).double().log_softmax(-1)
        found[precision] = (expected.exp() * (expected - log_p)).sum(-1).mean().item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--bundle", default="", help="a trained bundle, for the divergences")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 64
    tune_allocator()

    steps: dict[str, Step] = {}
    for preset, precision in OURS:
        steps[f"{preset}, {precision}"] = our_step(build(preset, precision, device), device)
    musicgen = musicgen_decoder(1024, 24, 4, 2048).to(device, torch.bfloat16).eval()
    text_BTD = torch.randn(2, costs.TEXT_TOKENS, 1024, device=device, dtype=torch.bfloat16)
    table: dict[str, dict[str, Any]] = {name: {} for name in (*steps, "MusicGen-small, bf16")}
    for seconds in SECONDS:
        rival, _ = musicgen_step(musicgen, text_BTD, seconds * MUSICGEN_RATE)
        for name, value in timed({**steps, "MusicGen-small, bf16": rival}, arguments.rounds, 5, device).items():
            rate = MUSICGEN_RATE if name.startswith("MusicGen") else FRAME_RATE
            table[name][f"{seconds} s"] = {
                "ms_per_frame": round(1e3 * value, 2),
                "compute_per_second": round(value * rate, 3),
            }
        rival_share = table["MusicGen-small, bf16"][f"{seconds} s"]["compute_per_second"]
        for name, line in table.items():
            line[f"{seconds} s"]["of_musicgen"] = round(line[f"{seconds} s"]["compute_per_second"] / rival_share, 3)
            print(f"{seconds:4} s  {name:24} {line[f'{seconds} s']}", flush=True)
        del rival
        gc.collect()
    del musicgen
    fastest = {name: steps[name] for name in ("paper, fp32", "paper, int8")}
    fastest["paper, recomputed"] = recomputation(build("paper", "fp32", device), device)
    again = timed(fastest, 3, 1, device)
    ratios = {name: round(again["paper, recomputed"] / again[name], 1) for name in ("paper, fp32", "paper, int8")}
    print(f"recomputing {RECOMPUTED_SECONDS} s for each frame takes so many times as long: {ratios}")
    content = {
        "machine": machine(arguments.threads, device),
        "decoding": table,
        "recomputation_at_10_s": {"ms_per_frame": round(1e3 * again["paper, recomputed"], 1), "times": ratios},
        "kl_to_fp32": divergences(arguments.bundle) if arguments.bundle else None,
    }
    print(f"next-token KL to fp32: {content['kl_to_fp32']}")
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"{'gpu-' if device.type == 'cuda' else ''}guided_decoding.json"
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
