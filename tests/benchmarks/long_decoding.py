"""30,000 frames of one stream, really decoded: does a frame cost more at the end, does memory grow?

    python tests/benchmarks/long_decoding.py [--frames 30000]

Every backbone with a state space at 5 M parameters, compiled. At frame 512 a copy of the state is kept; at the end,
frames from both places are timed in turn. Resident memory is read at both. The result goes to
results/long_decoding.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import psutil
import torch
from candidates import SIZES, STATE_SIZE, our_lm
from measuring import machine, timed

from ssmttm.conditions.base import Conditions, TokenStates
from ssmttm.model.lm import LMState, MusicLM

RESULTS = Path(__file__).parent / "results"
EARLY = 512


def text(dim: int) -> Conditions:
    mask, null = torch.ones(1, 32, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    return Conditions({"text": TokenStates(torch.randn(1, 32, dim), mask, torch.randn(1, dim), null)})


@torch.inference_mode()
def measure(lm: MusicLM, frames: int) -> dict[str, float]:
    lm.compile_steps()
    logits, state = lm.prefill(text(lm.widths["text"]))
    process = psutil.Process()
    early: LMState | None = None
    resident = 0
    for frame in range(frames):
        logits, state = lm.step(logits.argmax(-1), state)
        if frame == EARLY:
            early, resident = copy.deepcopy(state), process.memory_info().rss
    grown = process.memory_info().rss - resident
    assert early is not None
    token = torch.zeros(1, 1, dtype=torch.long)
    states = {"early": early, "late": state}

    def step(place: str) -> None:
        with torch.inference_mode():
            _, states[place] = lm.step(token, states[place])

    seconds = timed({place: lambda place=place: step(place) for place in states}, rounds=41, repeats=20)
    return {
        "ms_at_512": round(1e3 * seconds["early"], 3),
        f"ms_at_{frames}": round(1e3 * seconds["late"], 3),
        "ratio": round(seconds["late"] / seconds["early"], 3),
        "resident_grown_MB": round(grown / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64
    table = {}
    for backbone in ("prefix_simba", "prefix_mamba", "cross_simba"):
        torch.manual_seed(0)
        table[backbone] = measure(our_lm(backbone, STATE_SIZE, *SIZES["5M"]).eval(), arguments.frames)
        print(backbone, table[backbone], flush=True)
    content = {"machine": machine(1, torch.device("cpu")), "frames": arguments.frames, "backbones": table}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "long_decoding.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
