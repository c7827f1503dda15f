"""Engines: how one optimizer step is computed. The trainer speaks only to `Engine`.

`TorchEngine` is one process of plain torch and the reference; `DeepSpeedEngine` (deepspeed_engine.py) spreads the
same arithmetic over workers. Both hold fp32 parameters, optionally under bf16 autocast.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ssmttm.config import TrainConfig
from ssmttm.hardware import multiplies_bf16
from ssmttm.training.task import Batch

State = dict[str, Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")


class LossModule(nn.Module):
    """A model whose forward pass is its training loss, so that an engine sees one call per micro-batch."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]):
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self._loss(self.model, batch)


class Engine(ABC):
    """Forward, backward and update of one model on one of `world_size` workers."""

    rank = 0
    world_size = 1
    device: torch.device
    model: nn.Module
    figures: Mapping[str, float] = MappingProxyType({})  # of the last step, besides its loss and norm

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Summed loss of this worker's micro-batch, in training mode."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> float:
        """Summed loss of a batch without dropout or gradients."""

    @abstractmethod
    def sum(self, *values: float) -> list[float]:
        """Each value summed over workers; not finite if any worker's is not."""

    @abstractmethod
    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradient of `loss`; gradients are summed over micro-batches and workers."""

    @abstractmethod
    def step(self, lr: float) -> float | None:
        """Clip and update with this base learning rate: the gradient norm before clipping, or None where it is
        not finite and nothing was changed."""

    @abstractmethod
    def abandon(self, loss: Tensor) -> None:
        """Drop this step and every gradient added so far; `loss` is the forward pass still in flight."""

    @abstractmethod
    def update_average(self, decay: float) -> None:
        """Move the averaged weights towards the present ones."""

    @abstractmethod
    def _swap_average(self) -> None:
        """Exchange the model's weights with the averaged ones, if there are any."""

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Hold the averaged weights in the model (the present ones if there is no average)."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def averaged_state(self) -> State:
        """`model_state` of the averaged weights."""
        with self.averaged():
            return self.model_state()

    @abstractmethod
    def model_state(self) -> State:
        """The model's full state dict on CPU. A collective: every worker calls it; only rank 0's is complete."""

    @abstractmethod
    def optimizer_state(self) -> State:
        """Full AdamW state on CPU, keyed `exp_avg.NAME`, `exp_avg_sq.NAME`, `step`. A collective like
        `model_state`."""

    @abstractmethod
    def load_optimizer_state(self, state: State) -> None:
        """Inverse of `optimizer_state`, on every worker."""


def use_bf16(config: TrainConfig) -> bool:
    """`auto` means bf16 where the hardware multiplies it natively, else fp32."""
    if config.precision != "auto":
        return config.precision == "bf16"
    return multiplies_bf16("cuda" if config.use_gpu else "cpu")


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW over the task's groups. The rate starts at 0: the trainer sets it at every step."""
    plain = [{key: group[key] for key in ("params", "weight_decay", "lr_scale")} for group in groups]
    return torch.optim.AdamW(plain, lr=0.0, betas=config.betas, fused=True)


def set_learning_rate(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class TorchEngine(Engine):
    """One process of plain torch."""

    def __init__(self, module: LossModule, groups: list[dict[str, Any]], config: TrainConfig, average: State | None):
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        self.module = module.to(self.device)
        self.model = module.model
        self.optimizer = make_optimizer(groups, config)
        self._clip = config.clip
        self._autocast = use_bf16(config)
        self._parameters = dict(self.model.named_parameters())
        self._average: State = {}
        if config.ema:
            source = self.model.state_dict() if average is None else average
            self._average = {name: source[name].detach().to(self.device, copy=True) for name in self._parameters}

    def _autocasting(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def forward(self, batch: Batch) -> Tensor:
        self.module.train()
        with self._autocasting():
            return self.module(batch.to(self.device))

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        self.module.eval()
        with self._autocasting():
            return float(self.module(batch.to(self.device)))

    def sum(self, *values: float) -> list[float]:
        return list(values)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        loss.backward()

    def step(self, lr: float) -> float | None:
        limit = self._clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), limit))
        if math.isfinite(norm):
            set_learning_rate(self.optimizer, lr)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(norm) else None

    def abandon(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        for name, average in self._average.items():
            average.lerp_(self._parameters[name], 1 - decay)

    def _swap_average(self) -> None:
        for name, average in self._average.items():
            parameter = self._parameters[name]
            parameter.data, self._average[name] = average, parameter.data

    def model_state(self) -> State:
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def optimizer_state(self) -> State:
        state: State = {}
        for name, parameter in self._parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                state["step" if key == "step" else f"{key}.{name}"] = value.detach().cpu().clone()
        return state

    def load_optimizer_state(self, state: State) -> None:
        for name, parameter in self._parameters.items():
            moments = {key: state[f"{key}.{name}"].to(self.device, copy=True) for key in MOMENTS}
            self.optimizer.state[parameter] = {"step": state["step"].to(self.device, copy=True), **moments}
