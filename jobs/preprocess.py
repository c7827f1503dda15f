"""Corpus -> token shards, with Ray Data.

    python jobs/preprocess.py --preset mini corpus.source=DIR corpus.out=URI codec.path=DIR

An interrupted job continues when it is started again; a finished one returns at once. `train.launch=local` runs it in
this process, without Ray.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ssmttm import config
from ssmttm.cluster import connect
from ssmttm.errors import UserError, exit_on_user_error
from ssmttm.tokens.card import summary_line
from ssmttm.tokens.plan import Plan
from ssmttm.tokens.schema import PartReport
from ssmttm.tokens.write import PartWriter, preprocess, preprocess_local


class RayWriter:
    """A `PartWriter` as Ray Data calls it: rows in, rows out."""

    def __init__(self, settings: config.Config):
        self._write = PartWriter(settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        plan: Plan = pickle.loads(row["plan"])
        try:
            return {"report": asdict(self._write(plan)), "problem": ""}
        except UserError as error:  # as a value: raised here, Ray would bury its one line in traces
            return {"report": asdict(PartReport(plan.name, 0, 0.0, 0, skipped=False)), "problem": str(error)}


def execute_with_ray(writer: PartWriter, plans: Sequence[Plan]) -> Iterator[PartReport]:
    """Fulfil plans on a pool of actors that load the encoders once: `corpus.actors`, or as many as the cluster's CPUs
    or GPUs let in.

    Raises:
        UserError: if the cluster lacks the GPUs asked for, or an actor met one (a storage that failed, for one).
    """
    import ray.data

    # One progress bar, the library's own, which counts parts; and no log line for each step of the executor.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    corpus, resources = writer.config.corpus, ray.cluster_resources()
    room = int(resources.get("CPU", 1))
    if corpus.gpus_per_actor:
        room = int(resources.get("GPU", 0) / corpus.gpus_per_actor)
        if not room:
            raise UserError(f"corpus.gpus_per_actor={corpus.gpus_per_actor:g}, but the cluster has no such GPU")
    actors = min(len(plans), corpus.actors or max(1, room))
    rows = ray.data.from_items([{"plan": pickle.dumps(plan)} for plan in plans], override_num_blocks=len(plans)).map(
        RayWriter,
        fn_constructor_args=(writer.config,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=1,
        num_gpus=corpus.gpus_per_actor or None,
    )
    for row in rows.iter_rows():
        if row["problem"]:
            raise UserError(row["problem"])
        yield PartReport(**row["report"])


def main(argv: list[str] | None = None) -> None:
    with exit_on_user_error():
        settings = config.parse_arguments(__doc__ or "", "preprocess", argv)
        if settings.train.launch == "local":
            result = preprocess_local(settings)
        else:
            connect()
            result = preprocess(PartWriter(settings), execute_with_ray)
        print(f"{settings.corpus.out}: {summary_line(result.dataset, result.reports, result.wall_s)}")


if __name__ == "__main__":
    main()
