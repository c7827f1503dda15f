"""Compose a corpus, train both stages on it, and hear the result: report.html, summary.json and a bundle in --out.

    python jobs/demo.py [--preset mini] [--out runs/demo] [--minutes 17] [section.key=value ...]

Each step is a Ray job of its own, as on a cluster: on the cluster at RAY_ADDRESS, or on one started for the purpose.
Run again, it skips what is finished; an interrupted training continues from its last checkpoint. With --minutes the
trainings take fewer steps than the preset has where this machine would need longer for all of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from ssmttm import config, storage
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.lease import hold
from ssmttm.reports.demo import render
from ssmttm.training.ray_jobs import JobFailedError, job_client, run_job
from ssmttm.training.writer import read_rows

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EVALUATION = 0.2  # share of --minutes that is left for export, evaluation and report
STAGE1 = 0.5  # of the time for training: more is lost by a stage 2 that was cut short
START_S = 25  # until a training on Ray has made its first step
LEAST_S = 30
NATS = ("own", "shuffled", "null", "pooled_only", "prefix_only")


@dataclass(frozen=True)
class Step:
    """One job: its name, command, the file that says it is done, and its share of the time that is left for training
    when it starts."""

    name: str
    command: list[str]
    done: str
    share: float = 0.0


@dataclass(frozen=True)
class Demo:
    """Where everything lies, and what was asked for."""

    out: str
    preset: str
    overrides: list[str]
    minutes: float | None = None

    def path(self, *parts: str) -> str:
        return storage.join(self.out, *parts)

    @property
    def paths(self) -> dict[str, str]:
        """Configuration keys that the demo sets itself: absolute, as a job runs in a temporary copy of the code."""
        return {
            "corpus.source": self.path("corpus"),
            "corpus.out": self.path("tokens"),
            "codec.path": self.path("codec"),
            "train.data": self.path("tokens"),
            "train.out": self.out,
            "evaluate.bundle": self.path("bundle"),
            "evaluate.out": self.path("evaluation"),
        }

    def job(self, name: str) -> list[str]:
        keys = [*self.overrides, *(f"{key}={value}" for key, value in self.paths.items())]
        return ["python", f"jobs/{name}.py", "--preset", self.preset, *keys]

    def steps(self, settings: config.Config) -> list[Step]:
        corpus, paths = settings.corpus, self.paths
        compose = ["ssmttm", "corpus", "compose", "--out", paths["corpus.source"], "--hours", str(corpus.hours)]
        compose += ["--seed", str(corpus.seed), "--clip-seconds", str(corpus.clip_seconds)]
        compose += ["--captions", str(corpus.captions_per_track)]
        stages = [self.path("stage1"), self.path("stage2")]
        return [
            Step("compose", compose, self.path("corpus", "manifest.jsonl")),
            Step("train_codec", self.job("train_codec"), self.path("codec", "report.json")),
            Step("preprocess", self.job("preprocess"), self.path("tokens", "dataset.json")),
            Step(
                "train_stage1",
                [*self.job("train_stage1"), "train.name=stage1"],
                storage.join(stages[0], "summary.json"),
                STAGE1,
            ),
            Step(
                "train_stage2",
                [*self.job("train_stage2"), "train.name=stage2"],
                storage.join(stages[1], "summary.json"),
                1.0,
            ),
            Step(
                "export",
                ["ssmttm", "export", *stages, "--out", paths["evaluate.bundle"]],
                self.path("bundle", "bundle.json"),
            ),
            Step("evaluate", self.job("evaluate"), self.path("evaluation", "evaluation.json")),
        ]


def open_demo(out: str, preset: str, overrides: list[str], minutes: float | None = None) -> tuple[Demo, config.Config]:
    """Resolve the settings and keep what was asked for in demo.json.

    Raises:
        UserError: if they set a path that the demo sets itself, or the folder holds a demo with other settings.
    """
    if config.inside_ray_job() and out != storage.absolute(out):
        raise UserError(f"--out {out} is relative, and a Ray job runs in a temporary copy; give an absolute path")
    demo = Demo(storage.absolute(out), preset, overrides, minutes)
    for override in demo.overrides:
        if override.partition("=")[0] in demo.paths:
            raise UserError(f"{override}: the demo keeps all its data under --out; choose another --out instead")
    settings = config.load(demo.preset, demo.overrides)
    asked = {"preset": demo.preset, "overrides": sorted(demo.overrides)}
    if storage.exists(demo.path("demo.json")):
        before = storage.read_json(demo.path("demo.json"))
        if before["asked"] != asked:
            raise UserError(f"{demo.out} holds a demo with other settings ({before['asked']}); choose another --out")
    else:
        storage.write_json(demo.path("demo.json"), {"asked": asked, "wall_s": {}})
    return demo, settings


def run_steps(demo: Demo, steps: list[Step]) -> None:
    """Run the steps that are not done, in order, and keep the seconds each took.

    Raises:
        JobFailedError: if one fails; later ones are not started.
    """
    todo = [step for step in steps if not storage.exists(step.done)]
    for step in steps:
        if step not in todo:
            print(f"[{step.name}] done already: {step.done}", flush=True)
    if not todo:
        return
    with job_client() as client:
        for step in todo:
            print(f"\n[{step.name}] step {steps.index(step) + 1} of {len(steps)}", flush=True)
            start = time.perf_counter()
            run_job(client, [*step.command, *allowance(demo, step)], ROOT, demo.path("logs", f"{step.name}.log"))
            if not storage.exists(step.done):
                raise JobFailedError(f"{step.name} ended without writing {step.done}")
            keep_time(demo, step.name, time.perf_counter() - start)


def allowance(demo: Demo, step: Step) -> list[str]:
    """How long a training may take of what --minutes leave for it, as an override; none for other steps."""
    if demo.minutes is None or not step.share:
        return []
    used = sum(storage.read_json(demo.path("demo.json"))["wall_s"].values())
    left = 60 * demo.minutes * (1 - EVALUATION) - used
    return [f"train.minutes={max(left * step.share - START_S, LEAST_S) / 60:.2f}"]


def keep_time(demo: Demo, name: str, seconds: float) -> None:
    """Record a step's wall-clock seconds in demo.json, so that a second run still knows them."""
    state = storage.read_json(demo.path("demo.json"))
    state["wall_s"][name] = round(seconds, 1)
    storage.write_json(demo.path("demo.json"), state)
    print(f"[{name}] {seconds:.0f} s", flush=True)


def summarise(demo: Demo) -> dict[str, Any]:
    """What summary.json holds, gathered from the steps' own files."""
    stage1, stage2 = (storage.read_json(demo.path(stage, "summary.json")) for stage in ("stage1", "stage2"))
    evaluation = storage.read_json(demo.path("evaluation", "evaluation.json"))
    return {
        "preset": demo.preset,
        "wall_s": storage.read_json(demo.path("demo.json"))["wall_s"],
        "steps": {"stage1": stage1["steps"], "stage2": stage2["steps"]},
        "stage1": {"val_nats": {name: stage1["validation"][name] for name in NATS if name in stage1["validation"]}},
        "stage2": {**evaluation["stage2"], "val_loss": stage2["validation"]},
        "codec": evaluation["codec"],
        "adherence": evaluation["adherence"],
        "generation": evaluation["generation"],
        "clips": evaluation["clips"],
        "shards": demo.path("tokens"),
        "bundle": demo.path("bundle"),
        "report": demo.path("report.html"),
    }


def write_report(demo: Demo) -> dict[str, Any]:
    """Write summary.json and report.html; returns the summary."""
    start = time.perf_counter()
    summary = summarise(demo)
    runs = {}
    for stage in ("stage1", "stage2"):
        rows = [read_rows(demo.path(stage, name)) for name in ("metrics.jsonl", "validation.jsonl")]
        runs[stage] = (rows[0], rows[1])
    html = render(summary, storage.read_json(demo.path("evaluation", "evaluation.json")), runs)
    storage.write_text(demo.path("report.html"), html)
    keep_time(demo, "report", time.perf_counter() - start)
    summary = summarise(demo)
    storage.write_json(demo.path("summary.json"), summary)
    return summary


def show(summary: dict[str, Any]) -> None:
    """The summary's main figures on the console; how prompts were followed, the evaluation has just said."""
    nats = "  ".join(f"{name} {value:.3f}" for name, value in summary["stage1"]["val_nats"].items())
    frechet = "  ".join(f"{name} {value:.2f}" for name, value in summary["stage2"]["frechet"].items())
    steps, total = summary["steps"], sum(summary["wall_s"].values())
    print(
        f"\nstage 1: {steps['stage1']:,} steps, held-out nats per code {nats}; "
        f"stage 2: {steps['stage2']:,} steps, Fréchet distance {frechet}"
    )
    speed = summary["generation"]["times_real_time"]
    print(f"listen: {summary['report']} (made in {total:.0f} s, generates at {speed}x real time)")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=config.help_on_keys("demo") + "\nThe other jobs say theirs, e.g. python jobs/train_stage1.py --help.",
    )
    parser.add_argument("--preset", default="mini", help=f"{', '.join(config.preset_names())} or a YAML file")
    parser.add_argument("--out", default="runs/demo", help="folder for everything the demo makes (default: runs/demo)")
    parser.add_argument(
        "--minutes", type=float, help="about how long all of it may take (default: as long as the preset's steps need)"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings for all steps")
    arguments = parser.parse_args(argv)
    with exit_on_user_error(), hold(arguments.out, "choose another --out"):
        demo, settings = open_demo(arguments.out, arguments.preset, arguments.overrides, arguments.minutes)
        try:
            run_steps(demo, demo.steps(settings))
        except JobFailedError as error:
            print(f"\nerror: {error}", file=sys.stderr)
            return 1
        show(write_report(demo))
    return 0


if __name__ == "__main__":
    sys.exit(main())
