"""How long stage 2's denoisers take for ten seconds of music, at equal numbers of parameters.

    python tests/benchmarks/denoiser_speed.py [--preset mini] [--threads 2]

One clip, one call of the sampler without guidance, random weights (which change no cost), sizes from
`tuning/equal_sizes.py`, timed in turn. `times_real_time` is seconds of music per second of compute; `of_convnext` is
the time relative to the first. The result goes to results/denoiser_speed-PRESET.json, with the machine's description.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import machine, timed

from ssmttm import config as configuration
from ssmttm.conditions.base import Conditions
from ssmttm.model import costs
from ssmttm.model.diffusion import LatentCompleter, Sampler
from tuning.equal_sizes import EQUAL_SIZES

RESULTS = Path(__file__).parent / "results"
STEPS, SECONDS = (4, 8, 16), 10
SIZES = {"mini": (128, 128, 384), "paper": (64, 8, 768)}  # fine, coarse and text dimensions


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(EQUAL_SIZES), default="mini")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    config = configuration.load(arguments.preset)
    fine_dim, coarse_dim, text_dim = SIZES[arguments.preset]
    frames = round(SECONDS * config.codec.sample_rate / (config.codec.hop * config.codec.stack))
    coarse_BDT, noise_BDT = torch.randn(1, coarse_dim, frames), torch.randn(1, fine_dim, frames)
    empty = costs.sample_conditions(costs.Shape(0, text_dim, coarse_dim), costs.TEXT_TOKENS)
    zeros = {name: torch.zeros_like(getattr(empty["text"], name)) for name in ("states_BSD", "pooled_BD")}
    text = Conditions({"text": replace(empty["text"], **zeros)})
    models = {}
    for name, sizes in EQUAL_SIZES[arguments.preset].items():
        changed = config.stage2.model_copy(update={"denoiser": name, **sizes})
        models[name] = LatentCompleter(changed, fine_dim, coarse_dim, {"text": text_dim}).eval()
    content: dict[str, Any] = {
        "machine": machine(arguments.threads, torch.device("cpu")),
        "parameters": {name: costs.trainable_parameters(model) for name, model in models.items()},
        "frames": frames,
        "steps": {},
    }
    for steps in STEPS:
        calls = {
            name: partial(model.sample, coarse_BDT, text, noise_BDT, Sampler(steps)) for name, model in models.items()
        }
        seconds = timed(calls, arguments.rounds, 1)
        content["steps"][steps] = {
            name: {
                "ms": round(1e3 * value, 1),
                "times_real_time": round(SECONDS / value, 1),
                "of_convnext": round(value / seconds["convnext"], 2),
            }
            for name, value in seconds.items()
        }
        for name, line in content["steps"][steps].items():
            print(f"{steps:3} steps  {name:12} {line}", flush=True)
    out = RESULTS / f"denoiser_speed-{arguments.preset}.json"
    RESULTS.mkdir(exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
