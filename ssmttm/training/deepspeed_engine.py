"""The engine that spreads a step over workers: DeepSpeed, ZeRO stage 0 to 3, on GPU (nccl) or CPU (gloo).

Parameters stay fp32. bf16 comes from DeepSpeed's `torch_autocast`: its `bf16` section would cast every parameter,
those of the state space included. Checkpoints go through full tensors, so a run may change its stage or number of
workers between two starts.
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

from ssmttm.config import TrainConfig
from ssmttm.errors import UserError
from ssmttm.training.deepspeed_config import deepspeed_config
from ssmttm.training.engine import MOMENTS, Engine, LossModule, State, make_optimizer, set_learning_rate
from ssmttm.training.schedule import BatchShape
from ssmttm.training.task import Batch


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
