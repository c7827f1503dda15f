"""One of the workers of test_faults.py: the training loop under DeepSpeed, without Ray around it.

python trainer_worker.py RANK WORLD PORT CONFIG.json [die=STEP] [stop=STEP] [nan=POSITION,...]

die: this worker kills itself in the middle of a step, after so many. stop: it asks for a stop there. nan: global
batches whose loss is not a number on this worker.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from ssmttm.config import from_dict
from ssmttm.training.deepspeed_engine import DeepSpeedEngine
from ssmttm.training.launch import EXIT_STOPPED, make_task
from ssmttm.training.order import batch_shape
from ssmttm.training.run import run_of
from ssmttm.training.session import TrainingStoppedError
from ssmttm.training.trainer import Trainer


def main() -> None:
    rank, world, port, config_file = sys.argv[1:5]
    wishes = dict(word.split("=") for word in sys.argv[5:])
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": world}
    os.environ["LOCAL_RANK"] = rank
    torch.distributed.init_process_group("gloo", rank=int(rank), world_size=int(world))
    config = from_dict(json.loads(Path(config_file).read_text()))
    poisoned = {int(position) for position in wishes.get("nan", "").split(",") if position}

    def make_engine(module: Any, groups: Any, average: Any) -> DeepSpeedEngine:
        engine = DeepSpeedEngine(module, groups, config.train, batch_shape(config.train, int(world)), average)
        forward = engine.forward
        engine.forward = lambda batch: (
            forward(batch) * (torch.nan if trainer.progress.position - 1 in poisoned else 1.0)
        )
        return engine

    def stop_requested() -> bool:
        step = trainer.progress.step
        if step == int(wishes.get("die", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        return step + 1 == int(wishes.get("stop", -1))

    trainer = Trainer(make_task("stage1", config), run_of(config, "stage1"), make_engine, stop_requested=stop_requested)
    code = 0
    try:
        trainer.fit()
    except TrainingStoppedError:
        code = EXIT_STOPPED
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(code)  # now and then a thread of gloo's outlives the interpreter and aborts it


if __name__ == "__main__":
    main()
