"""What a job tells of itself, and to whom: MLflow and TensorBoard, each through a courier of its own.

The MLflow run's id lies in the run's folder (`mlflow.json`), so a restarted job appends to the same run.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ssmttm.config import Config
from ssmttm.tracking.board import FOLDER, Board
from ssmttm.tracking.courier import Courier, Item, Point, Receiver
from ssmttm.tracking.mlflow_run import MlflowRun, flatten


class Tracker:
    """Figures, parameters and files of one run. Make it with `Tracker.start`, end it with `finish`."""

    def __init__(self, couriers: list[Courier]):
        self._couriers = couriers
        self._restored: int | None = None
        self._released = threading.Event()

    @classmethod
    def start(
        cls, config: Config, run_name: str, run_dir: str, tags: dict[str, str] | None = None, held: bool = False
    ) -> Tracker:
        """Begin, or continue if `run_dir` remembers an MLflow run. Returns at once; with `tracking.enabled=false`
        every later call does nothing.

        Args:
            held: nothing is sent before `begin` or `finish`. Loading the receivers' libraries takes seconds, for which
                a training must not wait with its first step.
        """
        if not config.tracking.enabled:
            return cls([])
        kept = f"see metrics.jsonl, validation.jsonl and {FOLDER} in {run_dir}"
        tracker = cls([])
        if not held:
            tracker._released.set()

        def once_released(connect: Callable[[], Receiver]) -> Callable[[], Receiver]:
            def wait_and_connect() -> Receiver:
                tracker._released.wait()
                return connect()

            return wait_and_connect

        mlflow = once_released(lambda: MlflowRun(config, run_name, run_dir, lambda: tracker._restored))
        board = once_released(lambda: Board(run_dir, lambda: tracker._restored))
        tracker._couriers = [Courier("MLflow", mlflow, kept), Courier("TensorBoard", board, kept)]
        tracker.params(config.model_dump(mode="json"))
        tracker.tags(tags or {})
        return tracker

    def begin(self, step: int) -> None:
        """Say, before the first figures, after which step this start goes on. An earlier start may have recorded later
        steps, which now come again."""
        self._restored = step
        self._give([], [("begin", step)])
        self._released.set()

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record figures at a step; those that are not finite are left out."""
        now = int(time.time() * 1000)
        self._give([(name, float(value), now, step) for name, value in values.items() if math.isfinite(value)], [])

    def params(self, values: dict[str, Any]) -> None:
        """Record parameters that are not part of the configuration (nested tables are flattened)."""
        self._give([], [("params", flatten(values))])

    def tags(self, values: dict[str, str]) -> None:
        """Record what may change: a later value replaces an earlier one."""
        self._give([], [("tags", values)])

    def artifacts(self, uris: list[str]) -> None:
        """Attach files; those that end in .wav can be heard in both."""
        self._give([], [("artifact", uri) for uri in uris])

    def samples(self, uris: list[str], step: int) -> None:
        """Attach what the model of a step sounds like (WAV)."""
        self._give([], [("sample", (uri, step)) for uri in uris])

    def checkpoint(self, uri: str, step: int) -> None:
        """Record the newest checkpoint."""
        self._give([], [("tags", {"checkpoint": uri, "checkpoint_step": str(step)}), ("checkpoint", uri)])

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left, waiting half a minute at most, and end the run as FINISHED, FAILED or KILLED."""
        self._give([], [("status", status)])
        self._released.set()
        for courier in self._couriers:
            courier.close()
        for courier in self._couriers:
            courier.join()
        self._couriers = []

    def _give(self, points: list[Point], items: list[Item]) -> None:
        for courier in self._couriers:
            courier.give(points, items)
