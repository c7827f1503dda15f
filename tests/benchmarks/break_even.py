"""Draw results/break_even.svg: what a decoded frame moves and takes, against context.

    python tests/benchmarks/break_even.py

Left, counted at the papers' width and depth: bytes of state read and written for one frame of one stream (a
Transformer's cache in bf16, an SSM's state in fp32). Right, measured by language_models.py at 5 M parameters.
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssmttm.config import Stage1Config
from ssmttm.model import costs

RESULTS = Path(__file__).parent / "results"
INK = "#7a8089"  # readable on white and on near-black
CONTEXTS = (512, 2048, 8192, 30_000)
SHAPE = costs.Shape(codebook_size=1024, text_dim=768, coarse_dim=8)
PAPER = {"width": 1024, "layers": 24, "pooled": False, "tie_head": False, "codebook_features": False}
SHOWN = (
    "prefix_simba",
    "prefix_simba, state 128",
    "prefix_simba, state 512",
    "prefix_transformer",
    "transformers MusicGen",
)


def state_traffic() -> dict[str, list[float]]:
    """Megabytes per frame and context: an SSM's state is read and written, a cache read."""
    lines = {}
    for state_size in (64, 128, 512):
        config = Stage1Config(state_size=state_size, **PAPER)
        held = costs.decode_costs(config, SHAPE, 0).state_bytes
        lines[f"SSM, state {state_size}"] = [2 * held / 1e6] * len(CONTEXTS)
    transformer = Stage1Config(backbone="prefix_transformer", **PAPER)
    lines["Transformer"] = [costs.decode_costs(transformer, SHAPE, c).state_bytes / 2 / 1e6 for c in CONTEXTS]
    return lines


def main() -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, values in state_traffic().items():
        left.plot(CONTEXTS, values, marker="o", markersize=3, label=name)
    left.set_title("State moved per frame, papers' size (MB)")
    measured = json.loads((RESULTS / "language_models-5M.json").read_text(encoding="utf-8"))["candidates"]
    for name in SHOWN:
        points = measured[name]["decode_ms"]
        right.plot([int(context) for context in points], list(points.values()), marker="o", markersize=3, label=name)
    right.set_title("Time per frame, 5 M parameters, one CPU thread (ms)")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(CONTEXTS, [f"{context:,}" for context in CONTEXTS], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("context (frames)", color=INK)
        axes.title.set_color(INK)
        axes.title.set_fontsize(9)
        axes.tick_params(colors=INK, labelsize=8)
        axes.grid(alpha=0.2)
        for spine in axes.spines.values():
            spine.set_color(INK)
        axes.legend(fontsize=7, labelcolor=INK, framealpha=0)
    figure.savefig(RESULTS / "break_even.svg", transparent=True)
    print(f"wrote {RESULTS / 'break_even.svg'}")


if __name__ == "__main__":
    main()
