"""Kills a tiny training at random moments, starts it again until it is done, and compares what it left, bit for bit,
with a run that was left alone.

    python tests/soak/kills.py --count 100 --ray 20 [--seed 0] [--out FOLDER]

Every fifth kill falls into a checkpoint's save: it counts as such only if a folder without its commit file stayed. In
process, the training is killed; on Ray, its driver and its worker take turns. Each run is killed up to five times.
Ends with a table, and with exit code 1 if a run differed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import psutil
from synthetic_tokens import make_codec, write_tokens

from ssmttm import config, storage
from ssmttm.storage import LEASE_NAME
from ssmttm.training.checkpoint import COMMIT, folder_of
from ssmttm.training.run import Run
from ssmttm.training.writer import read_rows

PER_RUN = 5
SAVES = 5  # one kill in so many falls into a save
PATIENCE_S = 900.0
STEPS = {"local": 60, "ray": 120}
WORDS = ("train.checkpoint_every=3", "train.validate_every=20", "train.log_every=1", "train.ema=0.9", "train.samples=0")
_processes = multiprocessing.get_context("forkserver")  # which imports what takes long once, for all starts
_processes.set_forkserver_preload(["__main__", "ssmttm.training.launch", "ray", "deepspeed"])


def _train(words: list[str], log: str, address: str) -> None:
    """What a started process does."""
    import torch

    from ssmttm.training.launch import train

    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.environ["RAY_ADDRESS"] = address
    torch.set_num_threads(1)
    train(config.load("tiny", words, job="stage1"), "stage1")


@dataclass
class Tally:
    """What was done to one kind of run. `kills`: by victim and moment."""

    kills: dict[tuple[str, str], int] = field(default_factory=dict)
    runs: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.kills.values())

    @property
    def saves(self) -> int:
        return sum(number for (_, moment), number in self.kills.items() if moment == "save")


class Soak:
    """Runs of one kind, `local` or `ray`, on the same tokens and with the same settings, under `folder`."""

    def __init__(self, folder: Path, kind: str, seed: int, address: str = ""):
        self.folder, self.kind, self.tally, self._address = folder, kind, Tally(), address
        self._random = random.Random(f"{kind}/{seed}")
        tokens = folder / "tokens"
        if not (tokens / "dataset.json").exists():
            write_tokens(tokens, make_codec(folder / "codec", config.load("tiny").codec))
        self._words = [*WORDS, f"train.data={tokens}", f"codec.path={folder / 'codec'}", f"train.out={folder / kind}"]
        self._words += [f"train.steps={STEPS[kind]}", f"train.launch={kind}", "tracking.enabled=false"]
        self._words += ["train.workers=1", "train.cpus_per_worker=0.5", "train.max_failures=1000"]
        self._finish(self._start("reference"), "reference")
        self._wanted = self.contents("reference")

    def run(self, name: str) -> Run:
        return Run(str(self.folder / self.kind / name))

    def _log(self, name: str) -> Path:
        return self.folder / f"{self.kind}-{name}.log"

    def _start(self, name: str) -> BaseProcess:
        words = [*self._words, f"train.name={name}"]
        job = _processes.Process(target=_train, args=(words, str(self._log(name)), self._address))
        job.start()
        return job

    def _finish(self, job: BaseProcess, name: str) -> None:
        job.join(PATIENCE_S)
        assert job.exitcode == 0, f"{name} ended with {job.exitcode}:\n{self._log(name).read_text()[-4000:]}"

    def contents(self, name: str) -> dict[str, Any]:
        """What must be equal to the last bit: figures, validation, weights, and the last checkpoint."""
        run, timed = self.run(name), {"seconds", "loader_wait", "save_wait"}
        found: dict[str, Any] = {
            log: [{key: value for key, value in row.items() if key not in timed} for row in read_rows(uri)]
            for log, uri in (("metrics", run.metrics), ("validation", run.validation))
        }
        last = folder_of(run.checkpoints, STEPS[self.kind])
        for folder in (run.weights, last):
            for entry in storage.list_names(folder):
                if entry.endswith(".safetensors"):
                    found[f"{folder.removeprefix(run.uri)}/{entry}"] = storage.digest(storage.join(folder, entry))
        return found

    def soak(self, count: int) -> Tally:
        """Kill `count` times, over as many runs as that takes."""
        while self.tally.count < count:
            name = f"run-{self.tally.runs}"
            self._torment(name, min(PER_RUN, count - self.tally.count))
            found = self.contents(name)
            different = [part for part in {*self._wanted, *found} if self._wanted.get(part) != found.get(part)]
            self.tally.runs += 1
            if different:
                self.tally.different.append(f"{self.kind} {name}: {', '.join(sorted(different))}")
        return self.tally

    def _torment(self, name: str, kills: int) -> None:
        job = self._start(name)
        for _ in range(kills):
            number = self.tally.count
            worker = self.kind == "ray" and number % 2 == 1
            moment = "save" if number % SAVES == SAVES - 1 else "any"
            at = self._await(name, job, worker, moment)
            if at is None:  # it came to its end
                break
            with suppress(psutil.NoSuchProcess):
                at()
            if not worker:
                job.join(PATIENCE_S)
                if job.exitcode != -signal.SIGKILL:  # quicker than its killer
                    break
            cut = self._uncommitted(name)
            self._note(name, "worker" if worker else "driver" if self.kind == "ray" else "process", moment, cut)
            if not worker:
                job = self._start(name)
        self._finish(job, name)

    def _note(self, name: str, victim: str, moment: str, cut: bool) -> None:
        moment = "save" if moment == "save" and cut else "any"
        self.tally.kills[victim, moment] = self.tally.kills.get((victim, moment), 0) + 1
        print(f"{self.kind} {name}: {victim} killed, moment {moment}, rows up to step {self._step(name)}", flush=True)

    def _await(self, name: str, job: BaseProcess, worker: bool, moment: str) -> Callable[[], None] | None:
        """Wait for the moment; returns what kills the victim, None once the run has ended by itself. Any moment is one
        in six times within seconds of the start, else soon after a random one of the steps that are left."""
        deadline, begun = time.monotonic() + PATIENCE_S, self._step(name)
        early = moment == "any" and self._random.random() < 1 / 6
        target = begun if early else self._random.randint(begun, max(begun, STEPS[self.kind] - 2))
        later = self._random.uniform(0, 3) if early else self._random.uniform(0, 0.1)
        while job.is_alive():
            assert time.monotonic() < deadline, self._log(name).read_text()[-4000:]
            victim = self._worker(name) if worker else psutil.Process(job.pid)
            if victim is None:
                pass
            elif moment == "any" and self._step(name) >= target:
                time.sleep(later)
                return victim.kill
            elif moment == "save" and self._uncommitted(name):
                time.sleep(self._random.uniform(0, 0.003))
                return victim.kill
            time.sleep(0.0005 if moment == "save" else 0.005)
        return None

    def _step(self, name: str) -> int:
        """The last step that the run's folder knows of."""
        rows = read_rows(self.run(name).metrics)
        return rows[-1]["step"] if rows else 0

    def _worker(self, name: str) -> psutil.Process | None:
        """The process on Ray that holds the run's folder together with its driver."""
        try:
            processes = storage.read_json(self.run(name).path(LEASE_NAME))["processes"]
            return psutil.Process(processes[1]["pid"])
        except (ValueError, KeyError, IndexError, psutil.NoSuchProcess):
            return None

    def _uncommitted(self, name: str) -> bool:
        """Whether a checkpoint is half written, or half removed."""
        checkpoints = Path(self.run(name).checkpoints)
        try:
            return any(not (folder / COMMIT).exists() and folder.exists() for folder in checkpoints.iterdir())
        except FileNotFoundError:
            return False


def table(tallies: dict[str, Tally]) -> str:
    lines = ["| run | killed | kills | of them in a save | runs | bit-equal |", "|---|---|---|---|---|---|"]
    for kind, tally in tallies.items():
        for victim in sorted({victim for victim, _ in tally.kills}):
            any_time, saves = (tally.kills.get((victim, moment), 0) for moment in ("any", "save"))
            equal = tally.runs - len(tally.different)
            lines.append(f"| {kind} | {victim} | {any_time + saves} | {saves} | {tally.runs} | {equal} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills in all (default: 100)")
    parser.add_argument("--ray", type=int, default=20, help="of them on Ray (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="folder for runs and logs (default: a temporary one)")
    given = parser.parse_args()
    folder, tallies = Path(given.out or tempfile.mkdtemp(prefix="ssmttm-kills-")), {}
    if given.count > given.ray:
        tallies["local"] = Soak(folder, "local", given.seed).soak(given.count - given.ray)
    if given.ray:
        import ray

        from ssmttm.training.launch import connect

        connect()
        tallies["ray"] = Soak(folder, "ray", given.seed, ray.get_runtime_context().gcs_address).soak(given.ray)
    print(table(tallies))
    different = [line for tally in tallies.values() for line in tally.different]
    print("\n".join(different) or "every run gave what the undisturbed one gave, to the last bit")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
