"""Scaling study: one size dial times backbones, seeds, variants and lengths, all on the same tokens in the same
order; one CSV row per trial.

    python tuning/scaling_study.py --preset mini train.data=TOKENS --sizes 2,3,4 --seeds 0,1,2 \\
        --backbones prefix_simba,prefix_transformer --lr prefix_simba=4e-3,prefix_transformer=2e-3 --out runs/study
    python tuning/report.py runs/study

--lr gives peak rates at width 256, from which those of other widths follow; without it train.lr counts for all.
--steps trains each trial once for each of these numbers of steps (for iso-FLOP curves), by default
train.steps. --vary KEY=A,B trains each trial once with each value, e.g. --vary stage1.pooled=true,false.

Trials run side by side on the cluster's free resources and report to Tune (and MLflow, if tracking is enabled) as they
go. The same command again continues: finished rows are kept, what was under way goes on from its checkpoint. No trial
is stopped early: that would bias what is fitted to the curves.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from typing import Any

from ray import tune

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config, TrainConfig
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.lease import hold
from ssmttm.model.mixers.registry import BACKBONES
from tuning.runner import TrialBar, run_trials
from tuning.table import DONE, Row, read_rows, write_rows
from tuning.trial import WIDTH_PER_LAYER, scaled_rate, sized

TABLE, SETTINGS = "study.csv", "study.json"


def plan(
    config: Config,
    backbones: list[str],
    sizes: list[int],
    seeds: list[int],
    steps: list[int] | None = None,
    rates: dict[str, float] | None = None,
    vary: list[str] | None = None,
    width_per_layer: int = WIDTH_PER_LAYER,
) -> list[Row]:
    """Every combination once, smallest first.

    Args:
        steps: lengths; default: `train.steps`.
        rates: by backbone, at width 256; default: `train.lr`.
        vary: `KEY=A,B` each.

    Raises:
        UserError: for an unknown backbone, a size or length that is not positive, or an axis without values.
    """
    for backbone in [*backbones, *(rates or {})]:
        BACKBONES.find(backbone)
    if min(sizes) < 1:
        raise UserError(f"--sizes {min(sizes)}: a size is a number of layers, at least 1")
    lengths = steps or [config.train.steps]
    if min(lengths) < 1:
        raise UserError(f"--steps {min(lengths)}: at least 1")
    axes = []
    for axis in vary or []:
        key, separator, values = axis.partition("=")
        if not separator or not values:
            raise UserError(f"--vary {axis}: write KEY=A,B")
        axes.append([f"{key}={value}" for value in values.split(",")])
    variants = [";".join(words) for words in itertools.product(*axes)]
    combinations = itertools.product(
        sorted(set(sizes)), dict.fromkeys(backbones), variants, sorted(set(lengths)), sorted(set(seeds))
    )
    rows = []
    for size, backbone, variant, length, seed in combinations:
        width = width_per_layer * size
        lr = scaled_rate((rates or {}).get(backbone, config.train.lr), width)
        rows.append(Row(backbone, size, seed, width, layers=size, steps=length, lr=lr, variant=variant))
    return rows


class RowKeeper(tune.Callback):
    """Writes the table, in the driver, whenever a trial ends: a killed study loses only what was under way."""

    def __init__(self, uri: str, rows: list[Row], progress: TrialBar):
        self._uri, self._rows, self._progress = uri, {row.name: row for row in rows}, progress

    def _keep(self, row: Row) -> None:
        self._rows[row.name] = row
        write_rows(self._uri, list(self._rows.values()))
        figures = f", {row.params:,} parameters, {row.val_nats:.4f} nats/code" if row.status == DONE else ""
        self._progress.done(f"{row.name}: {row.status}{figures}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._keep(Row.parse(trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._keep(replace(Row(**trial.config["trial"]["row"]), status="failed: its process died"))


def check_same_study(config: Config, uri: str) -> None:
    """Keep rows of different settings out of one table.

    Raises:
        UserError: if the folder was begun with other settings.
    """
    varied = {"backbone", "layers", "width"}
    now = {f"stage1.{k}": value for k, value in config.stage1.model_dump(mode="json").items() if k not in varied}
    kept = set(TrainConfig.deciding("training", "schedule")) - {"data", "lr", "seed"}
    now |= {f"train.{key}": value for key, value in config.train.model_dump(mode="json", include=kept).items()}
    if storage.exists(uri) and (before := storage.read_json(uri)) != now:
        changed = next(key for key in now if before.get(key) != now[key])
        raise UserError(f"{uri} was begun with {changed}={before.get(changed)}; choose another --out")
    storage.write_json(uri, now)


def study(config: Config, trials: list[Row], out: str) -> list[Row]:
    """Train what is missing; returns all rows of the table, `out`/study.csv."""
    check_same_study(config, storage.join(out, SETTINGS))
    table = storage.join(out, TABLE)
    rows = read_rows(table)
    finished = {row.name for row in rows if row.status == DONE}
    missing = [row for row in trials if row.name not in finished]
    print(f"{len(trials)} trials, {len(missing)} to train", flush=True)
    if missing:
        progress = TrialBar("study", len(missing))
        run_trials(missing, config, out, RowKeeper(table, rows, progress))
        progress.close()
    return read_rows(table)


def parse(argv: list[str] | None = None) -> tuple[Config, list[Row], str]:
    """Configuration, trials and output folder of a command line.

    Raises:
        UserError: for an unknown key, backbone or preset, or a bad value.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="a preset's name or YAML file (default: mini)")
    parser.add_argument("--sizes", type=integers, default=[2, 4], help="numbers of layers (default: 2,4)")
    parser.add_argument(
        "--width-per-layer", type=int, default=WIDTH_PER_LAYER, help=f"width over layers (default: {WIDTH_PER_LAYER})"
    )
    parser.add_argument("--backbones", type=words, default=list(BACKBONES), help=f"some of {','.join(BACKBONES)}")
    parser.add_argument("--seeds", type=integers, default=[0], help="one trial each (default: 0)")
    parser.add_argument("--steps", type=integers, help="one trial for each length (default: train.steps)")
    parser.add_argument("--lr", type=rates, default={}, help="BACKBONE=RATE,... at width 256 (default: train.lr)")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=A,B", help="one trial for each value")
    parser.add_argument("--out", required=True, help="folder or URI of study.csv and the runs")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. train.steps=500")
    arguments = parser.parse_intermixed_args(argv)
    config = configuration.load(arguments.preset, arguments.overrides, "stage1")
    trials = plan(
        config,
        arguments.backbones,
        arguments.sizes,
        arguments.seeds,
        arguments.steps,
        arguments.lr,
        arguments.vary,
        arguments.width_per_layer,
    )
    for trial in trials:
        sized(config, trial)  # a mistake in --vary is told here
    return configuration.with_absolute_paths(config, "stage1"), trials, storage.absolute(arguments.out)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def integers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def rates(text: str) -> dict[str, float]:
    return {name: float(rate) for name, rate in (word.split("=") for word in words(text))}


def main() -> None:
    with exit_on_user_error():
        config, trials, out = parse()
        with hold(out, "choose another --out"):
            rows = {row.name: row for row in study(config, trials, out)}
        for row in (rows[trial.name] for trial in trials):
            print(f"{row.name:48}{row.params:>12,} parameters  {row.val_nats:8.4f} nats/code  {row.status}")
        print(f"wrote {storage.join(out, TABLE)}; draw it with: python tuning/report.py {out}")


if __name__ == "__main__":
    main()
