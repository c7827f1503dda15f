"""How few steps stage 2 needs: solvers and time grids beside one another, from true codes of held-out clips.

    python tests/benchmarks/stage2_steps.py --run runs/demo/stage2 --tokens runs/demo/tokens [--regressor RUN]
    python tests/benchmarks/stage2_steps.py --bundle FOLDER --tokens FOLDER [--guidance 1 1.5 2.5] [--lines ab2,uniform]

A regressor of equal size is a run of jobs/train_stage2.py with stage2.objective=regression. Every line is drawn from
the same noise, whole clips at once, and decoded by the same codec as its references, training clips with their true
fine latents: so what is measured is stage 2 alone. `evaluations` counts steps times looks at the network in each
(Heun's method takes two); guidance other than 1 doubles them all alike. Columns:

    frechet         Fréchet distance of log-mel statistics from the training clips (evaluation/frechet.py)
    variance_ratio  variance of each mel band over all frames, as a share of the true latents': mean, lowest, highest
    l1, l1_of_mean  mean absolute error of the fine latents, in the codec's units: of one draw, of the mean of eight
    cpu_s           processor seconds that drawing all clips took

The result goes to results/stage2_steps.json, with the machine's description.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine
from torch import Tensor

from ssmttm import storage
from ssmttm.bundle.load import load_bundle
from ssmttm.codec.base import Codec
from ssmttm.codec.store import load_codec
from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import collate_text
from ssmttm.evaluation.embeddings import log_mel
from ssmttm.evaluation.frechet import LogMelSpace, Moments
from ssmttm.model.diffusion import LatentCompleter, Sampler
from ssmttm.model.weights import load_completer
from ssmttm.tokens.read import TokenDataset
from ssmttm.training.order import keyed_generator

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = (2, 4, 8, 16, 100)
LINES = [f"{solver},{grid}" for solver in ("euler", "heun", "ab2") for grid in ("uniform", "sway")]
LINES.append("ancestral,uniform")
DRAWS = 8  # whose mean is compared at MEAN_AT evaluations
MEAN_AT = 8
BATCH = 8

Complete = Callable[[Tensor, Conditions, list[str], int], Tensor]  # coarse latents, text, ids, draw -> fine latents


class Clips:
    """Some clips of a split, all of the longest length there is."""

    def __init__(self, tokens: str, split: str, count: int, codec: Codec):
        data = TokenDataset.open(tokens, split)
        longest = max(data.frames(i) for i in range(len(data)))
        whole = [i for i in range(len(data)) if data.frames(i) == longest]
        self.rows = [whole[int(place)] for place in np.linspace(0, len(whole), min(count, len(whole)), endpoint=False)]
        self._data, self._codec = data, codec

    def batches(self) -> list[tuple[list[str], Tensor, Tensor, Conditions]]:
        """Ids, coarse and true fine latents [B, D, T], text."""
        found = []
        for start in range(0, len(self.rows), BATCH):
            rows, data = self.rows[start : start + BATCH], self._data
            codes0_BT = torch.from_numpy(np.stack([data.codes(i)[0] for i in rows]).astype(np.int64))
            fine_BDT = torch.from_numpy(np.stack([data.fine(i) for i in rows]).astype(np.float32))
            text = collate_text([data.text.states(data.text_keys(i)[0]) for i in rows])
            found.append(([data.rows[i]["id"] for i in rows], self._codec.coarse(codes0_BT), fine_BDT, text))
        return found


class Heard:
    """Log-mel moments of clips as they are decoded."""

    def __init__(self, codec: Codec):
        self._codec, self.moments = codec, None

    def add(self, coarse_BDT: Tensor, fine_BDT: Tensor) -> None:
        for wav_1N in self._codec.decode(coarse_BDT, fine_BDT):
            one = Moments.of_clip(log_mel(wav_1N.numpy(), self._codec.sample_rate))
            self.moments = one if self.moments is None else self.moments + one

    def variances(self) -> np.ndarray:
        covariance = self.moments.gaussian().covariance
        return np.diag(covariance)[: len(covariance) // 2]


def measure(clips: Clips, codec: Codec, complete: Complete, space: LogMelSpace, real: Heard, true: Heard, draws: int):
    """One line of the table."""
    heard, errors, mean_errors, spent = Heard(codec), [], [], 0.0
    for ids, coarse_BDT, fine_BDT, text in clips.batches():
        start = time.process_time()
        drawn_BDT = complete(coarse_BDT, text, ids, 0)
        spent += time.process_time() - start
        heard.add(coarse_BDT, drawn_BDT)
        errors.append(float((drawn_BDT - fine_BDT).abs().mean()))
        if draws > 1:
            more = [complete(coarse_BDT, text, ids, draw) for draw in range(1, draws)]
            mean_errors.append(float((torch.stack([drawn_BDT, *more]).mean(0) - fine_BDT).abs().mean()))
    ratios = heard.variances() / true.variances()
    line: dict[str, Any] = {
        "frechet": round(space.distance(heard.moments, real.moments), 3),
        "variance_ratio": [round(float(value), 3) for value in (ratios.mean(), ratios.min(), ratios.max())],
        "l1": round(float(np.mean(errors)), 4),
        "cpu_s": round(spent, 1),
    }
    return line | ({"l1_of_mean": round(float(np.mean(mean_errors)), 4)} if draws > 1 else {})


def sampling(completer: LatentCompleter, sampler: Sampler) -> Complete:
    def normal(shape: tuple[int, ...], ids: list[str], *key: object) -> Tensor:
        rows = [keyed_generator("stage2_steps", name, *key).standard_normal(shape, np.float32) for name in ids]
        return torch.from_numpy(np.stack(rows))

    def complete(coarse_BDT: Tensor, text: Conditions, ids: list[str], draw: int) -> Tensor:
        shape = (completer.fine_dim, coarse_BDT.shape[2])
        noise_BDT = normal(shape, ids, draw)
        return completer.sample(coarse_BDT, text, noise_BDT, sampler, fresh=lambda step: normal(shape, ids, draw, step))

    return complete


def load(arguments: argparse.Namespace) -> tuple[LatentCompleter, Codec, float, dict[str, Any]]:
    """Stage 2, its codec, the guidance it is used with, and what it is."""
    if arguments.bundle:
        bundle = load_bundle(arguments.bundle, "cpu")
        described = {"config": bundle.config.stage2.model_dump(mode="json"), "model_id": bundle.model_id}
        return bundle.completer, bundle.codec, bundle.config.generation.stage2_guidance, described
    completer, description = load_completer(storage.join(arguments.run, "weights"))
    described = {"config": description["config"], "training": description["training"]}
    guidance = description["resolved_config"]["generation"]["stage2_guidance"]
    return completer, load_codec(description["codec"]["uri"]), guidance, described


def kinds_of(
    arguments: argparse.Namespace, completer: LatentCompleter, guidances: list[float]
) -> dict[str, tuple[Complete, int]]:
    """What is measured: by the line's name how fine latents are drawn, and the number of draws."""
    kinds: dict[str, tuple[Complete, int]] = {
        "codebook 0 alone": (
            lambda coarse_BDT, *_: coarse_BDT.new_zeros(len(coarse_BDT), completer.fine_dim, coarse_BDT.shape[2]),
            1,
        )
    }
    if arguments.regressor:
        regressor, _ = load_completer(storage.join(arguments.regressor, "weights"))
        kinds["regressor, one step"] = (sampling(regressor, Sampler(1, guidance=guidances[0])), 1)
    for evaluations, line in product(arguments.evaluations, arguments.lines):
        solver, grid = line.split(",")
        steps = evaluations // 2 if solver == "heun" else evaluations
        for guidance, rescale in product(guidances, arguments.rescale):
            if rescale and guidance == 1.0:
                continue  # nothing was guided that could be scaled back
            draws = arguments.draws if evaluations == MEAN_AT and grid == "uniform" else 1
            name = f"{evaluations} evaluations, {solver}, {grid}, guidance {guidance:g}"
            name += f", rescale {rescale:g}" if rescale else ""
            sampler = Sampler(steps, solver, grid, guidance, rescale)
            if guidance != 1.0 and arguments.guided_until < 1.0:
                name += f" until {arguments.guided_until:g}"
                sampler = replace(sampler, guided_until=arguments.guided_until)
            kinds[name] = (sampling(completer, sampler), draws)
    return kinds


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo/stage2", help="a finished run of stage 2")
    parser.add_argument("--bundle", help="take stage 2 and codec of this bundle instead")
    parser.add_argument("--tokens", default="runs/demo/tokens", help="its token shards")
    parser.add_argument("--regressor", help="a finished run with stage2.objective=regression")
    parser.add_argument("--clips", type=int, default=48, help="held-out clips (compare only equal numbers)")
    parser.add_argument("--reference-clips", type=int, default=192)
    parser.add_argument("--guidance", type=float, nargs="+", help="default: the run's generation.stage2_guidance")
    parser.add_argument("--rescale", type=float, nargs="+", default=[0.0])
    parser.add_argument("--guided-until", type=float, default=1.0, help="generation.stage2_guided_until")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--lines", nargs="+", default=LINES, metavar="SOLVER,GRID")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"at {MEAN_AT} evaluations on even times")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "stage2_steps.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    completer, codec, guidance, described = load(arguments)
    held_out = Clips(arguments.tokens, "val", arguments.clips, codec)
    real, true = Heard(codec), Heard(codec)
    for heard, clips in ((real, Clips(arguments.tokens, "train", arguments.reference_clips, codec)), (true, held_out)):
        for _, coarse_BDT, fine_BDT, _ in clips.batches():
            heard.add(coarse_BDT, fine_BDT)
    space = LogMelSpace.fit(real.moments)
    floor = round(space.distance(true.moments, real.moments), 3)
    print(f"{'true fine latents':36} frechet {floor}", flush=True)
    content: dict[str, Any] = {
        "machine": machine(arguments.threads, torch.device("cpu")),
        "model": described,
        "clips": len(held_out.rows),
        "reference_clips": arguments.reference_clips,
        "frechet_of_true_latents": floor,
        "lines": {},
    }
    arguments.out.parent.mkdir(exist_ok=True)
    for name, (complete, draws) in kinds_of(arguments, completer, arguments.guidance or [guidance]).items():
        content["lines"][name] = measure(held_out, codec, complete, space, real, true, draws)
        print(f"{name:36} {content['lines'][name]}", flush=True)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
