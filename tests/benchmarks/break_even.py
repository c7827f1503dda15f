"""Draw results/break_even.svg: what a decoded frame moves and takes, against context.

    python tests/benchmarks/break_even.py

Left, counted at the papers' width and depth: bytes of state read and written for one frame of one stream (a
Transformer's cache in bf16, an SSM's state in fp32). The others, measured by language_models.py: milliseconds per frame
at 5 M parameters and at the papers' size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssmttm.config import Stage1Config
from ssmttm.model import costs

RESULTS = Path(__file__).parent / "results"
INK = "#7a8089"  # readable on white and on near-black
CONTEXTS = (512, 2048, 8192, 30_000)
SHAPE = costs.Shape(codebook_size=1024, text_dim=768, coarse_dim=8)
PAPER = {"width": 1024, "layers": 24, "pooled": False, "tie_head": False, "codebook_features": False}
# The same colour for the same model in each picture.
SHOWN = {
    "prefix_simba": ("SSM, state 64", "C0", "-"),
    "prefix_simba, state 128": ("SSM, state 128", "C1", "-"),
    "prefix_simba, state 512": ("SSM, state 512", "C2", "-"),
    "prefix_simba, int8": ("SSM, state 64, int8 weights", "C0", ":"),
    "prefix_transformer": ("Transformer", "C3", "-"),
    "transformers MusicGen": ("transformers' MusicGen decoder", "C4", "-"),
}


def state_traffic() -> dict[str, list[float]]:
    """Megabytes per frame and context: an SSM's state is read and written, a cache read."""
    lines = {}
    for state_size, name in (
        (64, "prefix_simba"),
        (128, "prefix_simba, state 128"),
        (512, "prefix_simba, state 512"),
    ):
        config = Stage1Config(state_size=state_size, **PAPER)
        held = costs.decode_costs(config, SHAPE, 0).state_bytes
        lines[name] = [2 * held / 1e6] * len(CONTEXTS)
    transformer = Stage1Config(backbone="prefix_transformer", **PAPER)
    lines["prefix_transformer"] = [
        costs.decode_costs(transformer, SHAPE, context).state_bytes / 2 / 1e6 for context in CONTEXTS
    ]
    return lines


def draw(axes: Axes, title: str, lines: dict[str, list[float]]) -> None:
    for name, (label, colour, style) in SHOWN.items():
        if name in lines:
            axes.plot(CONTEXTS, lines[name], style, color=colour, marker="o", markersize=3, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(CONTEXTS, [f"{context:,}" for context in CONTEXTS], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("context (frames)", color=INK)
    axes.set_title(title, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(alpha=0.2)
    for spine in axes.spines.values():
        spine.set_color(INK)


def measured(size: str) -> dict[str, list[float]]:
    content: dict[str, Any] = json.loads((RESULTS / f"language_models-{size}.json").read_text(encoding="utf-8"))
    return {
        name: [line["decode_ms"][str(context)] for context in CONTEXTS]
        for name, line in content["candidates"].items()
        if name in SHOWN
    }


def main() -> None:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    draw(panels[0], "State moved per frame, papers' size (MB)", state_traffic())
    draw(panels[1], "Time per frame, 5 M, one CPU thread (ms)", measured("5M"))
    draw(panels[2], "Time per frame, papers' size, one CPU thread (ms)", measured("paper"))
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, labelcolor=INK, framealpha=0)
    figure.savefig(RESULTS / "break_even.svg", transparent=True, metadata={"Date": None})
    print(f"wrote {RESULTS / 'break_even.svg'}")


if __name__ == "__main__":
    main()
