"""DeepSpeed's configuration of a run: the trainer's own, and over it what the user's file adds."""

from __future__ import annotations

from typing import Any

from ssmttm import storage
from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.engine import use_bf16
from ssmttm.training.schedule import BatchShape

# What a file may set: how work is cut up and sent, and what DeepSpeed reports of it.
FREE_KEYS = {
    *("communication_data_type", "comms_logger", "wall_clock_breakdown", "steps_per_print"),
    *(
        f"zero_optimization.{key}"
        for key in (
            *("reduce_bucket_size", "allgather_bucket_size", "overlap_comm", "contiguous_gradients", "reduce_scatter"),
            *("allgather_partitions", "use_multi_rank_bucket_allreduce", "sub_group_size"),
            *("stage3_prefetch_bucket_size", "stage3_max_live_parameters", "stage3_max_reuse_distance"),
            *("stage3_module_granularity_threshold", "stage3_allgather_sequential"),
            *("stage3_use_all_reduce_for_fetch_params", "log_trace_cache_warnings"),
            *("offload_optimizer.pin_memory", "offload_param.pin_memory"),
        )
    ),
}
# What says the same in our configuration.
OWNERS = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.global_batch and train.micro_batch",
    "gradient_clipping": "train.clip",
    **dict.fromkeys(("bf16", "fp16", "amp", "torch_autocast", "data_types"), "train.precision"),
    "optimizer": "train.lr, train.betas and train.weight_decay",
    "scheduler": "train.schedule",
    "zero_optimization.stage": "train.zero",
    "zero_optimization.offload_optimizer": "train.offload",
    "zero_optimization.offload_param": "train.offload",
}


def zero_config(stage: int, offload: str = "none") -> dict[str, Any]:
    """DeepSpeed's configuration for a ZeRO stage, before batch sizes, clipping and precision are filled in.
    The files of `cluster/deepspeed` hold the same, for other tools."""
    zero: dict[str, Any] = {"stage": stage}
    if stage > 0:
        zero |= {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
    if stage == 3:
        # Every parameter stays partitioned, so that the averaged weights can be kept per partition.
        zero |= {"stage3_param_persistence_threshold": 0}
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }


def base_config(config: TrainConfig) -> dict[str, Any]:
    """What depends on neither workers nor hardware: ZeRO, offload, and the settings of `train.deepspeed`.

    Raises:
        UserError: for an offload that the ZeRO stage does not have, or if `train.deepspeed` cannot be read or sets
            what is not its to set.
    """
    if config.offload == "optimizer" and config.zero == 0:
        raise UserError("train.offload=optimizer needs train.zero=1, 2 or 3, not 0")
    if config.offload == "parameters" and config.zero < 3:
        raise UserError(
            f"train.offload=parameters needs train.zero=3, not {config.zero}; or use train.offload=optimizer"
        )
    base = zero_config(config.zero, config.offload)
    if config.deepspeed is None:
        return base
    settings = storage.read_json(config.deepspeed)
    if not isinstance(settings, dict):
        raise UserError(f"train.deepspeed={config.deepspeed} must hold one JSON object of DeepSpeed settings")
    return _merge(base, settings, config.deepspeed)


def deepspeed_config(config: TrainConfig, shape: BatchShape) -> dict[str, Any]:
    """The complete DeepSpeed configuration of a run, on the hardware that it runs on.

    Raises:
        UserError: as `base_config`.
    """
    filled = base_config(config)
    filled["train_micro_batch_size_per_gpu"] = shape.micro
    filled["gradient_accumulation_steps"] = shape.accumulation
    # Stage 0 leaves plain gradients, which the engine clips and checks itself.
    filled["gradient_clipping"] = config.clip if config.zero else 0.0
    if use_bf16(config):
        # No module is named as safe for reduced-precision communication: gradients are reduced in fp32.
        filled["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return filled


def _merge(ours: dict[str, Any], theirs: dict[str, Any], uri: str, prefix: str = "") -> dict[str, Any]:
    """`theirs` over `ours`; what is ours may be repeated, but not changed."""
    merged = dict(ours)
    for name, value in theirs.items():
        key, own = prefix + name, ours.get(name)
        if isinstance(value, dict) and isinstance(own, dict):
            merged[name] = _merge(own, value, uri, f"{key}.")
        elif key in FREE_KEYS:
            merged[name] = value
        elif name not in ours or own != value:
            raise UserError(_refusal(uri, key))
    return merged


def _refusal(uri: str, key: str) -> str:
    owner = next((owner for owned, owner in OWNERS.items() if f"{key}.".startswith(f"{owned}.")), None)
    if owner is not None:
        return f"train.deepspeed={uri} sets {key}, which is the trainer's; leave it out and use {owner}"
    return f"train.deepspeed={uri} sets {key}, which has no place in it; it may set {', '.join(sorted(FREE_KEYS))}"
