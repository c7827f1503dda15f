"""What the training loop costs beside a bare one: same model, same batches, same process.

    python tests/benchmarks/trainer_overhead.py [--segments 18] [--threads 2]

Trains `mini` on synthetic token shards of its shape (clips of 10 s) in segments of five steps. After each of the
trainer's, the bare loop (forward, backward, clip, AdamW on batches collated beforehand) goes through the same batches
with a model of its own, so that a slow moment of the machine meets both. The trainer's share holds loading, agreeing,
logging, metrics and, in every third segment, a checkpoint written to disk. The result goes to
results/trainer_overhead.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import machine

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
import synthetic_tokens

from ssmttm import config
from ssmttm.config import Config
from ssmttm.hardware import tune_allocator
from ssmttm.training.engine import LossModule, TorchEngine, make_optimizer, set_learning_rate, use_bf16
from ssmttm.training.launch import make_task
from ssmttm.training.run import prepare
from ssmttm.training.schedule import learning_rate
from ssmttm.training.stage_task import StageName
from ssmttm.training.task import Batch
from ssmttm.training.trainer import Trainer
from ssmttm.training.writer import read_rows

RESULTS = Path(__file__).parent / "results"
STAGE: StageName = "stage1"
SEGMENT = 5  # steps; the first of the trainer's and of the bare loop's warm up and do not count
TEXT_DIM = 384  # MiniLM's


def mini(folder: Path, steps: int) -> Config:
    """The `mini` preset on synthetic shards of its shape."""
    synthetic_tokens.TEXT_DIM = TEXT_DIM
    codec = synthetic_tokens.make_codec(folder / "codec", config.load("mini").codec, seconds=8)
    frames = round(config.load("mini").corpus.segment_seconds * codec.frame_rate)
    tokens = synthetic_tokens.write_tokens(folder / "tokens", codec, rows=200, held_out=8, frames=frames)
    return config.load(
        "mini",
        [
            *(f"train.data={tokens}", f"train.out={folder}/runs", f"codec.path={folder}/codec", "train.launch=local"),
            *(f"train.steps={steps}", f"train.validate_every={steps}", f"train.checkpoint_every={3 * SEGMENT}"),
            *("tracking.enabled=false", "train.validation_rows=4", "train.samples=0"),
        ],
        job=STAGE,
    )


class BareLoop:
    """The least that trains this model."""

    def __init__(self, trainer: Trainer, first: int, count: int):
        task = trainer.task
        torch.manual_seed(trainer.config.seed)
        model = task.build()
        self.module = LossModule(model, task.loss).train()
        self.optimizer = make_optimizer(task.optimizer_groups(model), trainer.config)
        self.config = trainer.config
        self.batches: list[tuple[list[Batch], int]] = [trainer._load(first + i) for i in range(count)]

    def run(self, first: int, count: int) -> None:
        for step in range(first, first + count):
            batches, terms = self.batches[step]
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16(self.config)):
                    loss = self.module(batch)
                (loss / terms).backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
            set_learning_rate(self.optimizer, learning_rate(step, self.config))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def measure(folder: Path, segments: int) -> dict[str, Any]:
    settings = mini(folder, SEGMENT * (segments + 1) + 1)
    run = prepare(settings, STAGE)
    assert run is not None
    seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
    mark = 0.0

    def between_segments() -> bool:
        """Called once or more in each of the trainer's steps."""
        nonlocal mark
        step = trainer.progress.step
        if step % SEGMENT == 0 and len(seconds["bare"]) == step // SEGMENT:
            start = time.perf_counter()
            seconds["trainer"].append(start - mark)
            bare.run(step, SEGMENT)
            mark = time.perf_counter()
            seconds["bare"].append(mark - start)
        return False

    trainer = Trainer(
        make_task(STAGE, settings),
        run,
        lambda module, groups, average: TorchEngine(module, groups, settings.train, average),
        stop_requested=between_segments,
    )
    bare = BareLoop(trainer, 0, SEGMENT * (segments + 2))
    start = time.perf_counter()
    for position in range(SEGMENT):
        trainer._load(position)
    collating = (time.perf_counter() - start) / SEGMENT
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit()
    rows = read_rows(run.metrics)[SEGMENT : SEGMENT * (segments + 1)]
    tokens = sum(row["tokens"] for row in rows)
    # The bare loop goes through batches k * SEGMENT... where step k * SEGMENT begins: before the trainer does.
    trained, plain = seconds["trainer"][2:], seconds["bare"][1:-1]
    ratios = [theirs / mine for mine, theirs in zip(trained, plain, strict=True)]
    waited = {name: rows[-1][name] - rows[0][name] for name in ("loader_wait", "save_wait")}
    return {
        "stage": STAGE,
        "parameters": sum(parameter.numel() for parameter in trainer.engine.model.parameters()),
        "precision": "bf16" if use_bf16(settings.train) else "fp32",
        "steps": len(rows),
        "checkpoints": len([row for row in rows if row["step"] % settings.train.checkpoint_every == 0]),
        "tokens_per_s": {"trainer": tokens / sum(trained), "bare": tokens / sum(plain)},
        "trainer_over_bare": {
            "all": sum(plain) / sum(trained),
            "median_segment": statistics.median(ratios),
            "segments": [round(ratio, 4) for ratio in ratios],
        },
        "collate_ms_per_step": 1000 * collating,
        "step_ms": 1000 * sum(trained) / len(rows),
        "share_waiting": {name: value / sum(trained) for name, value in waited.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=18)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.segments)
    result["machine"] = machine(arguments.threads, torch.device("cpu"))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "trainer_overhead.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
