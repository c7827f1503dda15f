"""The two stages by name."""

from __future__ import annotations

from typing import Literal

from ssmttm.config import Config
from ssmttm.training.stage1 import Stage1Task
from ssmttm.training.stage2 import Stage2Task
from ssmttm.training.stage_task import StageTask

StageName = Literal["stage1", "stage2"]


def make_task(stage: StageName, config: Config) -> StageTask:
    """The task of a stage on the configured token shards.

    Raises:
        UserError: if there are no finished shards.
    """
    return Stage1Task(config) if stage == "stage1" else Stage2Task(config)
