"""How the neural vocoder learns: magnitudes first, then the waveform that Griffin-Lim makes of them, at last, if asked
for, against discriminators.

A step is a function of seed and number, so a run that was stopped goes on as it would have.

Shapes: B batch, N samples, F mel frames, M mel bands, L frequency bins.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.codec.metrics import log_mel, stft_distance
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.neural_vocoder import FLOOR, NeuralVocoder
from ssmttm.config import Config, TrainConfig
from ssmttm.training.checkpoint import Checkpoint, Progress, restore
from ssmttm.training.discriminator import Discriminators
from ssmttm.training.engine import LossModule, State, TorchEngine, denormals_as_zero
from ssmttm.training.listener import Listener
from ssmttm.training.progress import clock
from ssmttm.training.run import Run
from ssmttm.training.schedule import learning_rate
from ssmttm.training.signals import DivergedError, TrainingStoppedError
from ssmttm.training.vocoder_data import Crops, CropSource
from ssmttm.training.writer import RunWriter

AVERAGE = 0.995  # decay of the averaged weights, which are what is kept
WEIGHT_DECAY = 0.01
MAGNITUDE_WEIGHT = 0.5  # of the loss on magnitudes, once the waveform's own counts
OBSERVED_STEPS = 10  # whose crops give the statistics of the network's input
LOGMEL_WEIGHT = 2.0


class VocoderTrainer:
    """Trains the vocoder of a codec to `vocoder.steps` optimizer steps, going on from the newest checkpoint in `run`.

    Two plain engines take turns: the vocoder's, and with `vocoder.adversarial` the discriminators'.

    Args:
        codec: fitted; gets the vocoder.
        clips: float32 [N] at the codec's rate.
        listener: gets every logged row.
        stop_requested: asked at each step.
    """

    def __init__(
        self,
        codec: MiniCodec,
        clips: list[np.ndarray],
        run: Run,
        config: Config,
        listener: Listener | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ):
        self.codec, self.config = codec, config
        self._listener, self._stop_requested = listener, stop_requested
        torch.manual_seed(config.train.seed)
        codec.add_vocoder(config.vocoder.model_dump())
        assert codec.neural_vocoder is not None
        self.vocoder = codec.neural_vocoder
        self.parameters = sum(parameter.numel() for parameter in self.vocoder.parameters())
        self.judges = Discriminators() if config.vocoder.adversarial else None
        checkpoint = restore(config, "vocoder", run.checkpoints)
        self.progress = checkpoint.progress if checkpoint else Progress()
        self._source = CropSource(codec, clips, config)
        self.vocoder.observe(torch.cat([self._source.batch(step).logmel_BFM for step in range(OBSERVED_STEPS)]))
        if checkpoint:
            self.vocoder.load_state_dict(_part(checkpoint.model, "vocoder"))
            if self.judges is not None:
                self.judges.load_state_dict(_part(checkpoint.model, "judges"))
        self._schedule = _train_config(config)
        average = _part(checkpoint.average, "vocoder") if checkpoint and checkpoint.average else None
        self._engines = {"vocoder": _engine(self.vocoder, self._loss, self._schedule, average)}
        if self.judges is not None:
            plain = self._schedule.model_copy(update={"ema": 0.0})
            self._engines["judges"] = _engine(self.judges, self._loss_of_judges, plain, None)
        if checkpoint:
            for name, engine in self._engines.items():
                if state := _part(checkpoint.optimizer, name):
                    engine.load_optimizer_state(state)
            print(f"vocoder: continuing from step {self.progress.step}", flush=True)
        self._decoded_BN: Tensor | None = None
        self._refused_in_a_row = 0
        saved = None if listener is None else listener.checkpoint
        self._writer = RunWriter(run, config.train.keep_checkpoints, self.progress.step, saved)
        if listener is not None:
            listener.begin(self.progress.step)

    def fit(self) -> None:
        """Train to the last step; the codec then holds the averaged weights, rounded to half precision as they are
        stored.

        Raises:
            TrainingStoppedError: when asked to stop, after a checkpoint.
            DivergedError: after `train.max_skipped` non-finite steps in a row.
            UserError: if the run's folder cannot be written.
        """
        try:
            with denormals_as_zero():
                self._fit()
        finally:
            self._writer.join()
        self._check_writer()
        state = self._averaged_state()
        self.vocoder.load_state_dict({name: value.half().float() for name, value in state.items()})
        self.vocoder.eval().requires_grad_(False)

    def _fit(self) -> None:
        train, progress, steps = self.config.train, self.progress, self.config.vocoder.steps
        saved = shown = time.monotonic()
        shown_step = progress.step
        while progress.step < steps:
            row = self._step()
            if row is None:
                continue
            self._writer.metrics.append(row)
            now, last, stop = time.monotonic(), progress.step == steps, self._stop_requested()
            if last or progress.step % train.log_every == 0:
                self._show(row, (now - shown) / (progress.step - shown_step))
                shown, shown_step = now, progress.step
            due = train.checkpoint_minutes is not None and now - saved >= 60 * train.checkpoint_minutes
            if last or stop or due or progress.step % train.checkpoint_every == 0:
                self._save()
                saved = now
            self._check_writer()
            if stop and not last:
                self._writer.join()
                self._check_writer()
                raise TrainingStoppedError(f"stopped at step {progress.step}, checkpoint saved")

    def _step(self) -> dict[str, float] | None:
        """One optimizer step of each engine; None if a loss or gradient was not finite."""
        start, lr = time.perf_counter(), learning_rate(self.progress.step, self._schedule)
        crops = self._source.batch(self.progress.position)
        self.progress.position += 1
        engine = self._engines["vocoder"]
        loss = engine.forward(crops)
        if not math.isfinite(float(loss.detach())):
            return self._skip()
        engine.backward(loss, is_last=True)
        norm = engine.step(lr)
        if norm is None:
            return self._skip()
        engine.update_average(AVERAGE)
        row = {"loss": float(loss.detach()), "lr": lr, "grad_norm": norm}
        if crops.adversarial:
            judging = self._engines["judges"].forward(crops)
            self._engines["judges"].backward(judging, is_last=True)
            self._engines["judges"].step(lr)
            row["loss_judges"] = float(judging.detach())
        self._refused_in_a_row = 0
        self.progress.step += 1
        self.progress.tokens += crops.logmel_BFM.shape[:2].numel()
        seconds = time.perf_counter() - start
        self.progress.seconds += seconds
        return {"step": self.progress.step, **row, "seconds": seconds, "skipped": self.progress.skipped}

    def _skip(self) -> None:
        self.progress.skipped += 1
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= self.config.train.max_skipped:
            raise DivergedError(
                f"{self._refused_in_a_row} steps in a row had a loss or gradient that is not finite, at step "
                f"{self.progress.step}; lower vocoder.lr"
            )
        print(f"step {self.progress.step}: loss or gradient is not finite, batch skipped", flush=True)

    def _loss(self, vocoder: nn.Module, crops: Crops) -> Tensor:
        assert isinstance(vocoder, NeuralVocoder)
        level_BFL = vocoder.levels(crops.logmel_BFM)
        wanted_BFL = crops.level_BFL
        wrong_B = (level_BFL.exp() - wanted_BFL.exp()).norm(dim=(1, 2)) / wanted_BFL.exp().norm(dim=(1, 2))
        on_magnitudes = wrong_B.mean() + (level_BFL.clamp_min(math.log(FLOOR)) - wanted_BFL).abs().mean()
        if not crops.waveform:  # an engine's state holds every parameter's moments from its first step on
            return on_magnitudes + 0.0 * sum(parameter.sum() for parameter in vocoder.parameters())
        decoded_BN, _ = vocoder.block(level_BFL, self.codec.vocoder, None, level_BFL.shape[1])
        with torch.autocast(decoded_BN.device.type, enabled=False):
            distance = stft_distance(decoded_BN, crops.wav_BN)
            rate = self.codec.sample_rate
            logmel = (log_mel(decoded_BN, rate) - log_mel(crops.wav_BN, rate)).abs().mean()
        loss = MAGNITUDE_WEIGHT * on_magnitudes + distance.convergence + distance.level + LOGMEL_WEIGHT * logmel
        if not crops.adversarial:
            return loss
        assert self.judges is not None
        self._decoded_BN = decoded_BN.detach()
        self.judges.requires_grad_(False)
        fooled = self.judges.loss_of_generator(decoded_BN, crops.wav_BN)
        self.judges.requires_grad_(True)
        return loss + self.config.vocoder.adversarial * fooled

    def _loss_of_judges(self, judges: nn.Module, crops: Crops) -> Tensor:
        """After the vocoder's own turn on the same crops."""
        assert isinstance(judges, Discriminators)
        assert self._decoded_BN is not None
        return judges.loss(self._decoded_BN, crops.wav_BN)

    def _show(self, row: dict[str, float], per_step: float) -> None:
        steps = self.config.vocoder.steps
        judges = f"  judges {row['loss_judges']:.3f}" if "loss_judges" in row else ""
        audio_s = self.config.vocoder.batch * self._source.frames / self.codec.frame_rate
        print(
            f"step {row['step']}/{steps}  loss {row['loss']:.4f}{judges}  lr {row['lr']:.2e}  "
            f"grad {row['grad_norm']:.2f}  {audio_s / per_step:.1f} s of audio/s  "
            f"eta {clock(per_step * (steps - row['step']))}",
            flush=True,
        )
        self._writer.flush()
        if self._listener is not None:
            figures = {f"train/{name}": value for name, value in row.items() if name != "step"}
            self._listener.metrics(figures, self.progress.step)

    def _averaged_state(self) -> State:
        engine = self._engines["vocoder"]
        with engine.averaged():
            return engine.model_state()

    def _save(self) -> None:
        model, optimizer = {}, {}
        for name, engine in self._engines.items():
            model |= _prefixed(engine.model_state(), name)
            optimizer |= _prefixed(engine.optimizer_state(), name) if engine.optimizer.state else {}
        average = _prefixed(self._averaged_state(), "vocoder")
        self._writer.save(Checkpoint(replace(self.progress), model, optimizer, average))

    def _check_writer(self) -> None:
        if self._writer.error is not None:
            raise self._writer.error


def _train_config(config: Config) -> TrainConfig:
    """What the engines and the schedule read, from the section `vocoder`."""
    own = config.vocoder
    fixed = {"ema": AVERAGE, "weight_decay": WEIGHT_DECAY, "schedule": "cosine"}
    return config.train.model_copy(update={"steps": own.steps, "lr": own.lr, "warmup_steps": own.warmup_steps, **fixed})


def _engine(
    module: nn.Module, loss: Callable[[nn.Module, Crops], Tensor], config: TrainConfig, average: State | None
) -> TorchEngine:
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    return TorchEngine(LossModule(module, loss), groups, config, average)


def _prefixed(state: State, name: str) -> State:
    return {f"{name}.{key}": value for key, value in state.items()}


def _part(state: State, name: str) -> State:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
