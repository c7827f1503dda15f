"""Scaling study: one size dial times backbones, each trained on the same tokens, one CSV row per trial.

    python tuning/scaling_study.py --preset tiny train.data=TOKENS \\
        --sizes 2,4 --backbones prefix_simba,prefix_transformer --out runs/study

Trials run side by side on the cluster's free resources. The same command again continues: finished rows are kept,
failed and missing ones are trained.
"""

from __future__ import annotations

import argparse
import itertools
import os
from dataclasses import asdict, replace
from typing import Any, get_args

from ray import tune

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config, Stage1Config
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.training.ray_launch import connect
from ssmttm.training.run import FREE_TRAIN_KEYS
from tuning.table import DONE, Row, read_rows, write_rows
from tuning.trial import new_row, run_trial, sized

BACKBONES = get_args(Stage1Config.model_fields["backbone"].annotation)


def plan(backbones: list[str], sizes: list[int], seeds: list[int]) -> list[Row]:
    """Every combination once, smallest first.

    Raises:
        UserError: for an unknown backbone or a size that is not positive.
    """
    for backbone in backbones:
        if backbone not in BACKBONES:
            raise UserError(f"--backbones {backbone} is unknown; use some of: {', '.join(BACKBONES)}")
    if min(sizes) < 1:
        raise UserError(f"--sizes {min(sizes)}: a size is a number of layers, at least 1")
    combinations = itertools.product(sorted(set(sizes)), dict.fromkeys(backbones), sorted(set(seeds)))
    return [new_row(backbone, size, seed) for size, backbone, seed in combinations]


class RowKeeper(tune.Callback):
    """Writes the table, in the driver, whenever a trial ends: a killed study loses only what was under way."""

    def __init__(self, uri: str, rows: list[Row]):
        self._uri, self._rows = uri, {row.name: row for row in rows}

    def _keep(self, row: Row) -> None:
        self._rows[row.name] = row
        write_rows(self._uri, list(self._rows.values()))
        figures = f", {row.params:,} parameters, {row.val_nats:.4f} nats/token" if row.status == DONE else ""
        print(f"{row.name}: {row.status}{figures}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._keep(Row.parse(trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._keep(replace(Row(**trial.config["trial"]["row"]), status="failed: its process died"))


def check_same_study(config: Config, uri: str) -> None:
    """Keep rows of different settings out of one table.

    Raises:
        UserError: if the folder was begun with other settings.
    """
    now = {f"stage1.{key}": value for key, value in config.stage1.model_dump(mode="json").items()}
    training = config.train.model_dump(mode="json")
    now |= {f"train.{key}": value for key, value in training.items() if key not in FREE_TRAIN_KEYS}
    if storage.exists(uri) and (before := storage.read_json(uri)) != now:
        changed = next(key for key in now if before.get(key) != now[key])
        raise UserError(f"{uri} was begun with {changed}={before.get(changed)}; choose another --out")
    storage.write_json(uri, now)


def study(config: Config, trials: list[Row], out: str) -> list[Row]:
    """Train what is missing; returns all rows of the table, `out`/study.csv."""
    check_same_study(config, storage.join(out, "study.json"))
    config = config.model_copy(update={"train": config.train.model_copy(update={"out": storage.join(out, "trials")})})
    table = storage.join(out, "study.csv")
    rows = read_rows(table)
    finished = {row.name for row in rows if row.status == DONE}
    missing = [row for row in trials if row.name not in finished]
    print(f"{len(trials)} trials, {len(missing)} to train", flush=True)
    if missing:
        space = [{"row": asdict(row), "config": sized(config, row).model_dump(mode="json")} for row in missing]
        resources = {"cpu": config.train.cpus_per_worker, "gpu": 1 if config.train.use_gpu else 0}
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the table is the only log wanted
        connect()
        tune.Tuner(
            tune.with_resources(run_trial, resources),
            param_space={"trial": tune.grid_search(space)},
            run_config=tune.RunConfig(name="tune", storage_path=out, callbacks=[RowKeeper(table, rows)], verbose=0),
        ).fit()
    return read_rows(table)


def parse(argv: list[str] | None = None) -> tuple[Config, list[Row], str]:
    """Configuration, trials and output folder of a command line.

    Raises:
        UserError: for an unknown key, backbone or preset, or a bad value.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="a preset's name or YAML file (default: mini)")
    parser.add_argument("--sizes", type=_integers, default=[2, 4], help="numbers of layers (default: 2,4)")
    parser.add_argument("--backbones", type=_words, default=list(BACKBONES), help=f"some of {','.join(BACKBONES)}")
    parser.add_argument("--seeds", type=_integers, default=[0], help="one trial each (default: 0)")
    parser.add_argument("--out", required=True, help="folder or URI of study.csv and the runs")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. train.steps=500")
    arguments = parser.parse_args(argv)
    config = configuration.load(arguments.preset, arguments.overrides, "stage1")
    trials = plan(arguments.backbones, arguments.sizes, arguments.seeds)
    return configuration.with_absolute_paths(config), trials, storage.absolute(arguments.out)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _integers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def main() -> None:
    with exit_on_user_error():
        config, trials, out = parse()
        rows = {row.name: row for row in study(config, trials, out)}
        for row in (rows[trial.name] for trial in trials):
            print(f"{row.name:28}{row.params:>12,} parameters  {row.val_nats:8.4f} nats/token  {row.status}")
        print(f"wrote {storage.join(out, 'study.csv')}")


if __name__ == "__main__":
    main()
