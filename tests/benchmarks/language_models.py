"""Our backbones beside their rivals: training, decoding and memory, measured side by side in one run.

    python tests/benchmarks/language_models.py [--size 5M] [--contexts 512,2048,8192,30000] [--threads 1]

All of one width and, by their number of layers, about one number of parameters; state size 64, head dimension 64,
expansion 2, random weights. Decoding one unguided stream in fp32, compiled;
training in bf16 autocast. At 5 M all candidates are there together and rounds go through them in turn. At the papers'
size they are built one after another, in several passes through all. Figures are medians. The result goes to
results/language_models-SIZE.json beside this file, with the machine's description.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from candidates import SIZES, Candidate, Setting, candidates
from measuring import machine, timed

from ssmttm.hardware import denormals_as_zero, tune_allocator

RESULTS = Path(__file__).parent / "results"


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def measure(
    built: dict[str, Candidate],
    contexts: list[int],
    lengths: list[int],
    rounds: int,
    repeats: int,
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    """For each candidate: milliseconds per frame and bytes of state by context, milliseconds per step by length."""
    table: dict[str, dict[str, Any]] = {
        name: {"layers": one.layers, "parameters": one.parameters, "decode_ms": {}, "state_bytes": {}, "train_ms": {}}
        for name, one in built.items()
    }
    for context in contexts:
        made = {name: one.decode(context) for name, one in built.items() if one.decode is not None}
        for name, seconds in timed({name: step for name, (step, _) in made.items()}, rounds, repeats, device).items():
            table[name]["decode_ms"][context] = 1e3 * seconds
            table[name]["state_bytes"][context] = made[name][1]
            print(f"decode {context:6}  {name:26} {1e3 * seconds:9.3f} ms/frame  {made[name][1]:14,} bytes", flush=True)
        made.clear()
        gc.collect()
    for length in lengths:
        steps = {name: one.train(length) for name, one in built.items() if one.train is not None}
        with denormals_as_zero():
            timings = timed(steps, rounds, 1, device, warm_ups=1)
        for name, seconds in timings.items():
            table[name]["train_ms"][length] = 1e3 * seconds
            print(f"train  {length:6}  {name:26} {1e3 * seconds:9.1f} ms/step", flush=True)
        steps.clear()
        gc.collect()
    return table


def median_of(passes: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table from several."""
    line = dict(passes[0])
    for kind in ("decode_ms", "train_ms"):
        line[kind] = {at: round(statistics.median(one[kind][at] for one in passes), 3) for at in passes[0][kind]}
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="5M")
    parser.add_argument("--contexts", type=numbers, default="512,2048,8192,30000", help="of decoding, in frames")
    parser.add_argument("--lengths", type=numbers, default="512,2048", help="of training sequences; empty: none")
    parser.add_argument("--batch", type=int, default=4, help="sequences in a training step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=20, help="decoded frames in a round")
    parser.add_argument("--passes", type=int, default=2, help="through all candidates, at the papers' size")
    parser.add_argument("--only", default="", help="names of lines, separated by semicolons")
    parser.add_argument("--eager", action="store_true", help="decode without torch.compile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.recompile_limit = 64  # all candidates share the code of a step
    tune_allocator()
    device = arguments.device
    setting = Setting(arguments.size, device, arguments.batch, not arguments.eager and device.type == "cpu")
    makers = candidates([name.strip() for name in arguments.only.split(";") if name.strip()])
    common = (arguments.contexts, arguments.lengths, arguments.rounds, arguments.repeats, device)
    if arguments.size == "5M":
        table = measure({name: make(setting) for name, make in makers.items()}, *common)
        table = {name: median_of([line]) for name, line in table.items()}
    else:
        passes: dict[str, list[dict[str, Any]]] = {name: [] for name in makers}
        for _ in range(arguments.passes):
            for name, make in makers.items():
                passes[name].append(measure({name: make(setting)}, *common)[name])
                gc.collect()
        table = {name: median_of(lines) for name, lines in passes.items()}
    RESULTS.mkdir(exist_ok=True)
    settings = {key: value for key, value in vars(arguments).items() if key != "device"}
    content = {"machine": machine(arguments.threads, device), "settings": settings, "candidates": table}
    prefix = "gpu-" if device.type == "cuda" else ""
    out = RESULTS / f"{prefix}language_models-{arguments.size}.json"
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
