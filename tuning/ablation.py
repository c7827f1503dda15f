"""One stage or two, and which denoiser: models of equal size and equal training, heard side by side.

    python tuning/ablation.py train.data=TOKENS corpus.source=CORPUS stage1.width=96 stage1.layers=3 \\
        --flops 1e13 --out runs/ablation [--systems single-8,two-unet] [--at-once 2]

A system is a language model of several codebooks (single-4, single-8), or one of codebook 0 with a stage 2
(two-convnext, two-unet, two-transformer, two-ssm). stage1.width and stage1.layers are those of the language model that
all of two stages share, which is half of each; the widths of the others are chosen to come to the same number of
parameters. Each system's training takes --flops operations, those of two stages half of them for each stage.

Trainings run in processes of one thread, --at-once of them at a time; each system is then exported, evaluated on the
held-out prompts (jobs/evaluate.py, evaluate.clips of them) and timed, in turn with the others. The same command again
continues: what is finished is kept. Writes ablation.csv and ablation.md; bundles and evaluations lie beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config, JobName
from ssmttm.engine.generator import Generator
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.lease import hold
from ssmttm.spreadsheet import to_csv
from ssmttm.training.export import export_bundle
from ssmttm.training.run import run_of
from tuning.ablation_plan import SYSTEMS, System, TrainingRun, plan
from tuning.table import nats

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROUNDS, SECONDS = 3, 10.0  # of timing: a clip of each system in each
PROMPT = "a slow jazz piece with a piano melody, in D minor, with drums, at 90 bpm"
ADHERENCE = ("genre", "lead", "drums", "tempo", "key")
COLUMNS = {
    "system": "system",
    "parameters": "parameters",
    "flops": "training FLOPs",
    "codes": "codes read by stage 1",
    "nats": "nats per code of codebook 0",
    "frechet": "Fréchet distance of true codes, log-mel statistics",
    **{name: name for name in ADHERENCE},
    "cpu_s": "CPU seconds for ten of music",
}


def command(job: str, config: Config, folder: str) -> list[str]:
    """A job of this configuration, as a command line; the configuration is written beside its log."""
    import yaml

    values = config.model_dump(mode="json")
    file = os.path.join(folder, f"{config.train.name or job}-{job}.yaml")
    with open(file, "w", encoding="utf-8") as opened:
        yaml.safe_dump({name: values[name] for name in values if name != "preset"}, opened)
    return [sys.executable, os.path.join(ROOT, "jobs", f"{job}.py"), "--preset", file]


def run_all(commands: dict[str, list[str]], folder: str, at_once: int) -> None:
    """Run commands, so many at a time, each on one thread and with a log of its own.

    Raises:
        UserError: naming the log, if one fails; the others are waited for.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}
    bar = tqdm(desc="ablation", total=len(commands), unit="job", mininterval=1.0)

    def run(name: str) -> str | None:
        log = os.path.join(folder, f"{name}.log")
        with open(log, "ab") as opened:
            ended = subprocess.run(commands[name], stdout=opened, stderr=opened, env=environment, check=False)
        tqdm.write(f"{name}: {'failed, see ' + log if ended.returncode else 'done'}")
        bar.update()
        return log if ended.returncode else None

    with ThreadPoolExecutor(at_once) as pool:
        logs = [log for log in pool.map(run, commands) if log]
    bar.close()
    if logs:
        raise UserError(f"a job failed; its log is {logs[0]}, and the same command continues")


def trainings(systems: Sequence[System]) -> list[TrainingRun]:
    """Every run once, the longest first."""
    runs = {run.name: run for system in systems for run in (system.stage1, system.stage2) if run}
    return sorted(runs.values(), key=lambda run: -run.flops)


def evaluation(system: System, config: Config, out: str) -> Config:
    """What jobs/evaluate.py is told of a system."""
    evaluate = {"bundle": storage.join(out, "bundles", system.name), "out": storage.join(out, "heard", system.name)}
    train = {"launch": "local", "name": system.name}
    return config.model_copy(
        update={
            "evaluate": config.evaluate.model_copy(update=evaluate),
            "train": config.train.model_copy(update=train),
        }
    )


def generation_times(systems: Sequence[System], out: str) -> dict[str, float]:
    """Processor seconds that a clip takes, the median of rounds in which each system has its turn."""
    torch.set_num_threads(1)
    generators = {one.name: Generator.load(storage.join(out, "bundles", one.name), "cpu") for one in systems}
    spent: dict[str, list[float]] = {name: [] for name in generators}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name, generator in generators.items():
            start = time.process_time()
            generator.generate(PROMPT, SECONDS, seed=turn)
            spent[name].append(time.process_time() - start)
    return {name: round(statistics.median(values[1:]), 2) for name, values in spent.items()}


def row_of(system: System, out: str, seconds: float) -> dict[str, Any]:
    """A system's line of the table, from what its runs and its evaluation wrote."""
    heard = storage.read_json(storage.join(out, "heard", system.name, "evaluation.json"))
    summary = storage.read_json(run_of(system.stage1.config, "stage1").summary)
    return {
        "system": system.name,
        "parameters": system.parameters,
        "flops": f"{system.flops:.2e}",
        "codes": summary["tokens"],
        "nats": round(nats(summary["validation"]), 4),
        "frechet": (heard["stage2"] if system.stage2 else heard["single_stage"])["frechet"]["generated"],
        **{name: round(heard["adherence"][name]["generated"], 3) for name in ADHERENCE},
        "cpu_s": seconds,
    }


def write_tables(rows: Sequence[dict[str, Any]], out: str) -> str:
    """ablation.csv, and ablation.md, whose text is returned."""
    table = to_csv(list(COLUMNS), ([row[name] for name in COLUMNS] for row in rows))
    storage.write_text(storage.join(out, "ablation.csv"), table)
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS), *([str(row[key]) for key in COLUMNS] for row in rows)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    storage.write_text(storage.join(out, "ablation.md"), text)
    return text


def ablate(systems: Sequence[System], config: Config, out: str, at_once: int) -> str:
    """Train, export, evaluate and time what is missing; returns the table.

    Raises:
        UserError: if a job fails.
    """
    folder = os.path.join(out, "logs")
    storage.make_dirs(folder)
    runs = [run for run in trainings(systems) if not storage.exists(run_of(run.config, run.stage).summary)]
    run_all({run.name: command(f"train_{run.stage}", run.config, folder) for run in runs}, folder, at_once)
    for system in systems:
        bundle = storage.join(out, "bundles", system.name)
        if not storage.exists(storage.join(bundle, "bundle.json")):
            stage2 = run_of(system.stage2.config, "stage2").uri if system.stage2 else None
            export_bundle(run_of(system.stage1.config, "stage1").uri, stage2, bundle)
    told = {system.name: evaluation(system, config, out) for system in systems}
    missing = {
        name: command("evaluate", settings, folder)
        for name, settings in told.items()
        if not storage.exists(storage.join(settings.evaluate.out, "evaluation.json"))
    }
    run_all(missing, folder, at_once)
    seconds = generation_times(systems, out)
    return write_tables([row_of(system, out, seconds[system.name]) for system in systems], out)


@dataclass(frozen=True)
class Asked:
    """What a command line asks for: the configuration of each job, and the rest."""

    stage1: Config
    stage2: Config
    evaluation: Config
    flops: float
    systems: list[str]
    at_once: int
    out: str


def parse(argv: list[str] | None = None) -> Asked:
    """Raises UserError for an unknown key or preset, or a bad value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="a preset's name or YAML file (default: mini)")
    parser.add_argument("--flops", type=float, required=True, help="operations of a system's training")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"some of {','.join(SYSTEMS)} (default: all)")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="processes (default: one per CPU)")
    parser.add_argument("--out", required=True, help="folder of the runs, bundles and tables")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. stage1.width=96")
    given = parser.parse_intermixed_args(argv)
    out = os.path.abspath(given.out)
    overrides = [*given.overrides, f"train.out={out}/runs", "train.launch=local", "train.workers=1"]
    jobs: tuple[JobName, ...] = ("stage1", "stage2", "evaluate")
    configs = (configuration.with_absolute_paths(configuration.load(given.preset, overrides, job), job) for job in jobs)
    return Asked(*configs, given.flops, given.systems.split(","), given.at_once, out)


def main() -> None:
    with exit_on_user_error():
        asked = parse()
        systems = plan(asked.stage1, asked.stage2, asked.flops, asked.systems)
        for system in systems:
            print(f"{system.name:16}{system.parameters:>12,} parameters{system.flops:12.2e} FLOPs", flush=True)
        with hold(asked.out, "choose another --out"):
            print(ablate(systems, asked.evaluation, asked.out, asked.at_once), end="")
        print(f"wrote {asked.out}/ablation.csv and ablation.md")


if __name__ == "__main__":
    main()
