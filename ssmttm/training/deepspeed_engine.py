"""DeepSpeed: what it is configured with, and the engine that spreads a step over workers.

ZeRO stage 0 to 3, on GPU (nccl) or CPU (gloo). Parameters stay fp32. bf16 comes from DeepSpeed's `torch_autocast`: its
`bf16` section would cast every parameter, those of the state space included. Checkpoints go through full tensors, so a
run may change its stage or number of workers between two starts.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ssmttm import storage
from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.engine import MOMENTS, Engine, LossModule, State, make_optimizer, set_learning_rate, use_bf16
from ssmttm.training.order import BatchShape
from ssmttm.training.task import Batch

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


def _initialise(module: LossModule, optimizer: torch.optim.Optimizer, filled: dict[str, Any], use_gpu: bool) -> Any:
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not use_gpu:
        # At first use DeepSpeed compiles a shared-memory all-reduce for half a minute or more, and several
        # processes doing so at once can fail. gloo alone does not need it.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed("nccl" if use_gpu else "gloo", auto_mpi_discovery=False, verbose=False)
    try:
        return deepspeed.initialize(model=module, optimizer=optimizer, config=filled, dist_init_required=False)[0]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"DeepSpeed refuses {key} in train.deepspeed: {first['msg']} (got {first['input']!r})"
        ) from None


def _own_part(parameter: nn.Parameter) -> Tensor:
    """What this worker holds of a parameter: its ZeRO-3 partition (flat, padded), else all of it."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data


class DeepSpeedEngine(Engine):
    """One of `world_size` workers; torch.distributed must be initialised."""

    def __init__(
        self,
        module: LossModule,
        groups: list[dict[str, Any]],
        config: TrainConfig,
        shape: BatchShape,
        average: State | None,
    ):
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if config.use_gpu else torch.device("cpu")
        self._stage, self._clip = config.zero, config.clip
        optimizer = make_optimizer(groups, config)
        self._engine = _initialise(module, optimizer, deepspeed_config(config, shape), config.use_gpu)
        self.model = module.model
        self._parameters = dict(self.model.named_parameters())
        self._create_optimizer_state()
        self._average: State = {}
        if config.ema:
            self._average = {name: _own_part(parameter).clone() for name, parameter in self._parameters.items()}
            for name, value in (average or {}).items():
                if name in self._average:
                    self._average[name] = self._partition(self._parameters[name], value)

    def forward(self, batch: Batch) -> Tensor:
        self._engine.train()
        return self._engine(batch.to(self.device))

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        self._engine.eval()
        return float(self._engine(batch.to(self.device)))

    def sum(self, *values: float) -> list[float]:
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(totals)
        return totals.tolist()

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages over workers; the trainer's loss is already divided by the global count.
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> float | None:
        set_learning_rate(self._engine.optimizer, lr)
        if self._stage == 0:
            norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip or math.inf))
            if not math.isfinite(norm):
                self._engine.zero_grad()
                return None
            self._engine.step()
            return norm
        self._engine.step()
        if not self._engine.was_step_applied():  # DeepSpeed passes over what is not finite without a word
            return None
        norm = float(self._engine.get_global_grad_norm())
        assert math.isfinite(norm), "DeepSpeed applied a gradient that is not finite"
        return norm

    def abandon(self, loss: Tensor) -> None:
        if self._stage == 0:
            self._engine.zero_grad()
            return
        # Gradients of earlier micro-batches may already be partitioned. A gradient that is nowhere finite makes
        # DeepSpeed itself drop them all, on every worker.
        self.backward(loss * math.nan, is_last=True)
        self._engine.step()
        assert not self._engine.was_step_applied()

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        for name, average in self._average.items():
            average.lerp_(_own_part(self._parameters[name]), 1 - decay)

    @torch.no_grad()
    def _swap_average(self) -> None:
        if self._stage == 3:
            # A forward pass without gradients may leave full copies behind, which would hide the swap.
            self._engine.empty_partition_cache()
        for name, average in self._average.items():
            part = _own_part(self._parameters[name])
            kept = part.clone()
            part.copy_(average)
            average.copy_(kept)

    def _partition(self, parameter: nn.Parameter, full: Tensor) -> Tensor:
        """This worker's part of a full tensor, laid out as `_own_part`, where that is."""
        if not hasattr(parameter, "ds_tensor"):
            return full.to(self.device, copy=True)
        size = parameter.ds_tensor.numel()
        padded = torch.zeros(size * self.world_size, device=parameter.ds_tensor.device)
        padded[: full.numel()] = full.flatten()
        return padded[size * self.rank : size * (self.rank + 1)].clone()

    def model_state(self) -> State:
        import deepspeed

        state: State = {}
        for name, parameter in self._parameters.items():
            gather = hasattr(parameter, "ds_tensor")
            with deepspeed.zero.GatheredParameters([parameter]) if gather else contextlib.nullcontext():
                if self.rank == 0:
                    state[name] = parameter.detach().cpu().clone()
        for name, value in self.model.state_dict().items():
            if name not in self._parameters:
                state[name] = value.detach().cpu().clone()
        return state

    def optimizer_state(self) -> State:
        from deepspeed.utils import safe_get_full_optimizer_state

        inner = self._inner_optimizer.state
        full: State = {"step": inner[self._flat_parameters()[0]]["step"].detach().cpu().clone()}
        for name, parameter in self._parameters.items():
            for key in MOMENTS:
                value = inner[parameter][key] if self._stage == 0 else safe_get_full_optimizer_state(parameter, key)
                if self.rank == 0:
                    full[f"{key}.{name}"] = value.detach().cpu().clone()
        return full

    def load_optimizer_state(self, state: State) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        inner = self._inner_optimizer.state
        for flat in self._flat_parameters():
            inner[flat]["step"].copy_(state["step"])
        for name, parameter in self._parameters.items():
            for key in MOMENTS:
                value = state[f"{key}.{name}"].to(self.device)
                if self._stage == 0:
                    inner[parameter][key].copy_(value)
                elif self._stage == 3:
                    safe_set_local_optimizer_state(parameter, self._partition(parameter, value), key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)

    def _create_optimizer_state(self) -> None:
        """AdamW makes its state at its first step, group by group; DeepSpeed links parameters to it after the first
        group and would miss the others. So it is made here, for all of them."""
        for flat in self._flat_parameters():
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self._inner_optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def _inner_optimizer(self) -> torch.optim.Optimizer:
        return self._engine.optimizer if self._stage == 0 else self._engine.optimizer.optimizer

    def _flat_parameters(self) -> list[Tensor]:
        """The tensors that AdamW itself sees: under ZeRO, flat partitions."""
        if self._stage == 0:
            return list(self._parameters.values())
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return list(self._engine.optimizer.single_partition_of_fp32_groups)
