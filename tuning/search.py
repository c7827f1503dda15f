"""Search: which learning rate, dropout or gain of the pooled path serves a backbone, by short trainings of one size.

    python tuning/search.py --preset mini train.data=TOKENS train.steps=500 --backbone prefix_simba --size 2 \\
        --lr 1e-3,2e-3,4e-3,8e-3 --vary stage1.dropout=0,0.1 --out runs/search

Rates are those at width 256. With --asha, trials that fall behind are stopped early (ASHA, arXiv 1810.05934): more
values for the time, but losses of unequal lengths, so leave it off where curves are compared. `search.csv` has a row
per trial; the last lines say what was best, and whether it lies inside its grid: a best value at the edge of a grid is
a reason to widen the grid, not a finding. Started again, finished trials are kept.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.lease import hold
from ssmttm.model.mixers.registry import BACKBONES
from tuning.runner import TrialBar, run_trials
from tuning.scaling_study import RowKeeper, check_same_study, plan
from tuning.table import DONE, Row, read_rows
from tuning.trial import WIDTH_PER_LAYER, scaled_rate, sized

TABLE, SETTINGS = "search.csv", "search.json"
STOPPED = "stopped early"
RUNGS = 3  # how often ASHA compares, each time after twice as many steps


def grid(
    config: Config, backbone: str, size: int, rates: list[float], vary: list[str], width_per_layer: int
) -> list[Row]:
    """One row for each combination; the rate is part of its name.

    Raises:
        UserError: see `plan`; also without any rate.
    """
    if not rates:
        raise UserError("--lr needs at least one rate")
    rows = []
    for row in plan(config, [backbone], [size], [config.train.seed], vary=vary, width_per_layer=width_per_layer):
        for rate in sorted(set(rates)):
            variant = ";".join(word for word in (f"train.lr={rate:g}", row.variant) if word)
            rows.append(replace(row, lr=scaled_rate(rate, row.width), variant=variant))
    return rows


class SearchKeeper(RowKeeper):
    """Also keeps what ASHA stopped, with the loss it had come to."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = Row.parse(trial.last_result)
        self._keep(row if row.status else replace(row, status=STOPPED))


def axes_of(rows: list[Row]) -> dict[str, list[str]]:
    """What was varied: key to its values, in numerical order where they are numbers."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for word in row.variant.split(";"):
            key, _, value = word.partition("=")
            values.setdefault(key, set()).add(value)

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), value
        except ValueError:
            return 0.0, value

    return {key: sorted(found, key=order) for key, found in values.items() if len(found) > 1}


def statement(rows: list[Row]) -> list[str]:
    """What was best, and for each numerical axis whether that lies inside its grid."""
    done = [row for row in rows if row.status == DONE]
    if not done:
        return ["no trial was finished"]
    best = min(done, key=lambda row: row.val_nats)
    lines = [f"best: {best.variant or best.name}, {best.val_nats:.4f} nats/code"]
    chosen = dict(word.split("=", 1) for word in best.variant.split(";"))
    for key, values in axes_of(rows).items():
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            continue
        if float(chosen[key]) in (numbers[0], numbers[-1]):
            lines.append(f"{key}={chosen[key]} is at the EDGE of its grid ({', '.join(values)}): widen it")
        else:
            lines.append(f"{key}={chosen[key]} is inside its grid ({', '.join(values)})")
    return lines


def search(config: Config, trials: list[Row], out: str, asha: bool) -> list[Row]:
    """Train what is missing; returns all rows of the table, `out`/search.csv."""
    check_same_study(config, storage.join(out, SETTINGS))
    rows = read_rows(storage.join(out, TABLE))
    ended = {row.name for row in rows if row.status in (DONE, STOPPED)}
    missing = [row for row in trials if row.name not in ended]
    if missing:
        progress = TrialBar("search", len(missing))
        steps = max(row.steps for row in missing)
        # Beyond the last step: a trial that comes to its end is not stopped but done.
        scheduler = ASHAScheduler(
            time_attr="step",
            metric="val_nats",
            mode="min",
            max_t=steps + 1,
            grace_period=max(1, steps // 2**RUNGS),
            reduction_factor=2,
        )
        keeper = SearchKeeper(storage.join(out, TABLE), rows, progress)
        run_trials(missing, config, out, keeper, scheduler if asha else None)
        progress.close()
    return read_rows(storage.join(out, TABLE))


def parse(argv: list[str] | None = None) -> tuple[Config, list[Row], str, bool]:
    """Configuration, trials, output folder and whether to stop early.

    Raises:
        UserError: for an unknown key, backbone or preset, or a bad value.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="a preset's name or YAML file (default: mini)")
    parser.add_argument("--backbone", default="prefix_simba", help=f"one of {', '.join(BACKBONES)}")
    parser.add_argument("--size", type=int, default=2, help="number of layers (default: 2)")
    parser.add_argument("--width-per-layer", type=int, default=WIDTH_PER_LAYER)
    parser.add_argument("--lr", type=lambda text: [float(word) for word in text.split(",")], required=True)
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=A,B")
    parser.add_argument("--asha", action="store_true", help="stop early what falls behind")
    parser.add_argument("--out", required=True, help="folder or URI of search.csv and the runs")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. train.steps=500")
    arguments = parser.parse_intermixed_args(argv)
    config = configuration.load(arguments.preset, arguments.overrides, "stage1")
    trials = grid(config, arguments.backbone, arguments.size, arguments.lr, arguments.vary, arguments.width_per_layer)
    for trial in trials:
        sized(config, trial)
    return configuration.with_absolute_paths(config, "stage1"), trials, storage.absolute(arguments.out), arguments.asha


def main() -> None:
    with exit_on_user_error():
        config, trials, out, asha = parse()
        names = {trial.name for trial in trials}
        with hold(out, "choose another --out"):
            rows = [row for row in search(config, trials, out, asha) if row.name in names]
        for row in sorted(rows, key=lambda row: row.val_nats):
            print(f"{row.variant:48}  {row.val_nats:8.4f} nats/code  {row.status}")
        print("\n".join(statement(rows)))


if __name__ == "__main__":
    main()
