"""A trained stage as an export takes it: weights that stand alone, of a finished run or of one of its checkpoints."""

from __future__ import annotations

import posixpath
from typing import Any

from ssmttm import storage
from ssmttm.codec.store import load_codec
from ssmttm.config import from_dict
from ssmttm.errors import UserError
from ssmttm.model import weights
from ssmttm.training.checkpoint import COMMIT, CheckpointStore, folder_of, load_checkpoint
from ssmttm.training.engine import State
from ssmttm.training.flops import flops_per_token
from ssmttm.training.run import Run
from ssmttm.training.stages import StageName


def finished(run: Run, stage: StageName) -> dict[str, Any]:
    """The description of a finished run's weights, which lie in `run.weights`.

    Raises:
        UserError: if the run is not finished or of the other stage.
    """
    if not storage.exists(run.summary):
        raise UserError(f"{run.uri} is not a finished run (no summary.json); train it to the end, or give another")
    return weights.read_description(run.weights, stage)


def write_checkpoint_weights(run: Run, stage: StageName, name: str, folder: str) -> dict[str, Any]:
    """Write the weights of a checkpoint (the average, if one is kept) into a folder, as a finished run does, and return
    their description. The run need not be finished.

    Args:
        name: of the checkpoint, `step-000100`.

    Raises:
        UserError: if the run has no such checkpoint, or it is damaged or of the other stage.
    """
    uri = storage.join(run.checkpoints, name)
    if not storage.exists(storage.join(uri, COMMIT)):
        steps = CheckpointStore(run.checkpoints, 1).committed()
        there = ", ".join(posixpath.basename(folder_of(run.checkpoints, step)) for step in steps) or "none"
        raise UserError(f"{run.uri} has no checkpoint {name}; it has: {there}")
    checkpoint = load_checkpoint(uri)
    state = checkpoint.model if checkpoint.average is None else checkpoint.average
    held = "stage2" if any(key.startswith("denoiser.") for key in state) else "stage1"
    if held != stage:
        raise UserError(f"{uri} holds a {held} model; {stage} is needed here")
    config, dataset = from_dict(storage.read_json(run.path("config.json"))), storage.read_json(run.path("dataset.json"))
    codec = load_codec(dataset["codec"]["uri"])
    if stage == "stage1":
        sizes: dict[str, Any] = {"config": config.stage1, "codebook_size": codec.codebook_size}
    else:
        sizes = {"config": config.stage2, "fine_dim": codec.fine_dim, "coarse_dim": codec.coarse_dim}
    sizes["config"] = sizes["config"].model_dump(mode="json")
    sizes |= weights.describe_widths({"text": dataset["text"]["dim"], **dataset.get("controls", {})})
    frames = dataset["frames_by_split"]["train"] / dataset["rows_by_split"]["train"]
    if crop := getattr(config, stage).crop_frames:
        frames = min(frames, crop)
    progress = checkpoint.progress
    description = {
        **sizes,
        "codec": dataset["codec"],
        "text": dataset["text"],
        "training": {
            "steps": progress.step,
            "parameters": _parameters(stage, sizes, state),
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "flops": flops_per_token(config, stage, dataset, frames) * progress.tokens,
        },
        "data": {"uri": config.train.data, "rows": dataset["rows"]},
        "resolved_config": config.model_dump(mode="json"),
    }
    weights.save_model(folder, stage, state, description)
    return description


def _parameters(stage: StageName, sizes: dict[str, Any], state: State) -> int:
    """How many the model has; building it also checks that the state is the whole of it."""
    module = weights.build_lm(sizes, state) if stage == "stage1" else weights.build_completer(sizes, state)
    return sum(parameter.numel() for parameter in module.parameters())
