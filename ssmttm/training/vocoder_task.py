"""How the neural vocoder learns: magnitudes first, then the waveform that Griffin-Lim makes of them, at last, if asked
for, against discriminators.

It learns from crops of clips, each with the log-mel that the codec keeps of it. A batch is a function of seed and
number alone.

Shapes: B batch, N samples, F mel frames, M mel bands, L frequency bins, D latent dimensions, T code frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmttm.codec.metrics import RESOLUTIONS, STFT_FLOOR, log_mel, stft_distance
from ssmttm.codec.mini import AHEAD_FRAMES, BLOCK_FRAMES, MiniCodec
from ssmttm.codec.neural_vocoder import FLOOR, NeuralVocoder
from ssmttm.config import Config
from ssmttm.training.engine import Engine, LossModule, State, TorchEngine
from ssmttm.training.order import Draw, keyed_generator
from ssmttm.training.task import Batch, Task

GAIN_DB = (-12.0, 3.0)
MIXED = 0.5  # share of crops with a second one beneath, which makes them denser than a composer does
MIXED_DB = (-12.0, 0.0)
IN_A_ROOM = 0.5  # share of stretches with reverberation, which a composer's dry instruments lack
DECAY_S = (0.3, 3.0)  # time in which it falls by 60 dB
SPEED_OCTAVES = (-0.5, 0.5)  # so that pitches lie anywhere and instruments vary
WIDTH = 16  # of a discriminator
MATCHING = 2.0  # weight of feature matching beside the score
AVERAGE = 0.995  # decay of the averaged weights, which are what is kept
WEIGHT_DECAY = 0.01
MAGNITUDE_WEIGHT = 0.5  # of the loss on magnitudes, once the waveform's own counts
OBSERVED_STEPS = 10  # whose crops give the statistics of the network's input
LOGMEL_WEIGHT = 2.0


@dataclass
class Crops:
    """A batch: original samples [B, N] float32, their log magnitudes [B, F, L], and the codec's log-mel [B, F, M].

    waveform, adversarial: what this step learns besides magnitudes. count: loss terms; the loss is a mean.
    """

    wav_BN: Tensor
    level_BFL: Tensor
    logmel_BFM: Tensor
    waveform: bool
    adversarial: bool
    count: int = 1

    def to(self, device: torch.device) -> Crops:
        moved = (self.wav_BN.to(device), self.level_BFL.to(device), self.logmel_BFM.to(device))
        return Crops(*moved, self.waveform, self.adversarial)


class CropSource:
    """Random crops of clips held in memory as 16-bit samples. Each is as long as a block of a stream with all that
    surrounds it, and a function of seed and step alone.

    Args:
        codec: fitted.
        clips: float32 [N] at the codec's rate.
    """

    def __init__(self, codec: MiniCodec, clips: list[np.ndarray], config: Config):
        self._codec, self._config, self._seed = codec, config.vocoder, config.train.seed
        context = config.vocoder.layers * (config.vocoder.kernel_size // 2)
        self.frames = -(-context // codec.config.stack) + BLOCK_FRAMES + AHEAD_FRAMES
        self._clips = [self._kept(clip) for clip in clips]

    def _kept(self, clip_N: np.ndarray) -> np.ndarray:
        """16-bit samples with silence around, and behind a clip that is shorter than a crop."""
        short = max(0, self.frames * self._codec.hop_length - len(clip_N))
        margin = self._codec.vocoder.margin
        return np.pad((clip_N * 32767).round().clip(-32768, 32767).astype(np.int16), (margin, margin + short))

    def batch(self, step: int) -> Crops:
        """The crops of optimizer step `step` (from 0)."""
        generator = keyed_generator("vocoder", self._seed, step)
        config = self._config
        crops = [self._crop(generator) for _ in range(config.batch)]
        quantised = torch.from_numpy(generator.random(config.batch) < config.quantised)
        waveform = step >= config.waveform_from
        adversarial = waveform and config.adversarial > 0 and step >= config.adversarial_from
        return make_crops(self._codec, np.stack(crops), quantised, waveform, adversarial)

    def _crop(self, generator: np.random.Generator) -> np.ndarray:
        crop_N: np.ndarray = self._cut(generator) * np.float32(10 ** (generator.uniform(*GAIN_DB) / 20))
        if generator.random() < MIXED:
            crop_N = crop_N + self._cut(generator) * np.float32(10 ** (generator.uniform(*MIXED_DB) / 20))
        return crop_N

    def _cut(self, generator: np.random.Generator) -> np.ndarray:
        """A stretch of a clip at a random speed, with what Griffin-Lim's first and last frames reach beyond it."""
        clip = self._clips[generator.integers(len(self._clips))]
        length = self.frames * self._codec.hop_length + 2 * self._codec.vocoder.margin
        taken = min(len(clip), round(length * 2 ** generator.uniform(*SPEED_OCTAVES)))
        start = generator.integers(len(clip) - taken + 1)
        cut_N = _stretched(clip[start : start + taken].astype(np.float32) / 32767, length)
        return _in_a_room(cut_N, self._codec.sample_rate, generator) if generator.random() < IN_A_ROOM else cut_N


def _stretched(wav_N: np.ndarray, length: int) -> np.ndarray:
    """Samples played faster or slower, so that there are `length` of them: their Fourier series at another rate."""
    spectrum_K = np.fft.rfft(wav_N)[: length // 2 + 1]
    return np.fft.irfft(spectrum_K, n=length).astype(np.float32) * np.float32(length / len(wav_N))


def _in_a_room(wav_N: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Samples and, at a random level beneath, their reverberation by decaying noise, at the samples' own energy."""
    decay_s, wet = generator.uniform(*DECAY_S), generator.uniform()
    n = 2 * len(wav_N)
    t = np.arange(len(wav_N)) / sample_rate
    noise_N = generator.standard_normal(len(wav_N)) * np.exp(-math.log(1000) * t / decay_s)
    spectrum_K = np.fft.rfft(wav_N, n) * np.fft.rfft(noise_N / np.linalg.norm(noise_N), n)
    mixed_N = (1 - wet) * wav_N + wet * np.fft.irfft(spectrum_K, n)[: len(wav_N)]
    return (mixed_N * (np.linalg.norm(wav_N) / max(1e-9, float(np.linalg.norm(mixed_N))))).astype(np.float32)


@torch.no_grad()
def make_crops(
    codec: MiniCodec, surrounded_BN: np.ndarray, quantised_B: Tensor, waveform: bool, adversarial: bool
) -> Crops:
    """Crops of samples that begin and end a margin outside; `quantised_B` rows come from codes, the others from
    continuous latents."""
    wav_BN = torch.from_numpy(surrounded_BN)
    spectrum_BFL = codec.vocoder.spectra(wav_BN)
    latents_BDT = codec.latents_of_spectra(spectrum_BFL).mT
    if quantised_B.any():
        codes_BKT = codec.quantise(latents_BDT[quantised_B].mT)[0]
        latents_BDT[quantised_B] = codec.coarse(codes_BKT[:, 0]) + codec.fine_from_codes(codes_BKT)
    margin = codec.vocoder.margin
    return Crops(
        wav_BN[:, margin:-margin],
        spectrum_BFL.abs().clamp_min(FLOOR).log(),
        codec.logmel_of(latents_BDT),
        waveform,
        adversarial,
    )


class SpectrogramDiscriminator(nn.Module):
    """Judges log-magnitude spectrograms of one resolution patch by patch (UnivNet, arXiv 2106.07889): scores
    [B, 1, F, l], and the features of every layer before."""

    window: Tensor

    def __init__(self, fft_size: int):
        super().__init__()
        self.fft_size = fft_size
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.layers = nn.ModuleList(
            nn.Conv2d(1 if index == 0 else WIDTH, WIDTH, (3, 9), stride=(1, 2), padding=(1, 4)) for index in range(4)
        )
        self.output = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, wav_BN: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum_BLF = torch.stft(
            wav_BN, self.fft_size, self.fft_size // 4, window=self.window, pad_mode="constant", return_complex=True
        )
        power_BLF = torch.view_as_real(spectrum_BLF).square().sum(-1)
        x = power_BLF.clamp_min(STFT_FLOOR**2).log().mT[:, None] / 8
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.output(x), features


class Discriminators(nn.ModuleList):
    """One for each of `RESOLUTIONS`, in a game with least-squares losses (arXiv 1611.04076) and feature matching (arXiv
    1910.06711)."""

    def __init__(self) -> None:
        super().__init__(SpectrogramDiscriminator(size) for size in RESOLUTIONS)

    def loss(self, fake_BN: Tensor, real_BN: Tensor) -> Tensor:
        """What they minimise: 1 for what is real, 0 for what is decoded."""
        losses = []
        for judge in self:
            losses.append((judge(real_BN)[0] - 1).square().mean() + judge(fake_BN)[0].square().mean())
        return torch.stack(losses).mean()

    def loss_of_generator(self, fake_BN: Tensor, real_BN: Tensor) -> Tensor:
        """What the vocoder minimises: a score of 1, and features like those of the original."""
        losses = []
        for judge in self:
            score, features = judge(fake_BN)
            with torch.no_grad():
                wanted = judge(real_BN)[1]
            matching = [(x - y).abs().mean() / y.abs().mean() for x, y in zip(features, wanted, strict=True)]
            losses.append((score - 1).square().mean() + MATCHING * torch.stack(matching).mean())
        return torch.stack(losses).mean()


class VocoderTask(Task):
    """Trains the vocoder of a codec to `vocoder.steps` steps on clips (float32 [N] each, at the codec's rate). `build`
    puts the untrained vocoder on top of the codec; `keep` leaves the trained one there."""

    name, unit = "vocoder", "loss/batch"
    data = range(1)  # of which every epoch makes one batch, a function of its number

    def __init__(self, codec: MiniCodec, clips: list[np.ndarray], config: Config):
        own, train = config.vocoder, config.train
        settings = {"steps": own.steps, "lr": own.lr, "warmup_steps": own.warmup_steps, "schedule": "cosine"}
        fixed = {"ema": AVERAGE, "weight_decay": WEIGHT_DECAY, "global_batch": 1, "micro_batch": 1}
        unused = {"samples_every": 0, "keep_best": False, "minutes": None, "init": None}
        self.config = config.model_copy(update={"train": train.model_copy(update=settings | fixed | unused)})
        self.codec, self.crops = codec, CropSource(codec, clips, config)
        self.judges: Discriminators | None = None
        self._decoded_BN: Tensor | None = None

    @property
    def vocoder(self) -> NeuralVocoder:
        assert self.codec.neural_vocoder is not None
        return self.codec.neural_vocoder

    def build(self) -> nn.Module:
        self.codec.add_vocoder(self.config.vocoder.model_dump())
        self.judges = Discriminators() if self.config.vocoder.adversarial else None
        self.vocoder.observe(torch.cat([self.crops.batch(step).logmel_BFM for step in range(OBSERVED_STEPS)]))
        return nn.ModuleDict({"vocoder": self.vocoder, **({"judges": self.judges} if self.judges else {})})

    def optimizer_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, nn.ModuleDict)
        return _groups(module["vocoder"])

    def count(self, draw: Draw) -> int:
        return 1

    def collate(self, draws: list[Draw]) -> Crops:
        (draw,) = draws
        return self.crops.batch(draw.epoch)

    def speed(self, terms_per_s: float) -> str:
        seconds = self.config.vocoder.batch * self.crops.frames / self.codec.frame_rate
        return f"{terms_per_s * seconds:.1f} s of audio/s"

    def remedy(self) -> str:
        return "lower vocoder.lr"

    def loss(self, module: nn.Module, batch: Crops) -> Tensor:
        """Of the vocoder, a mean over the batch's frames."""
        assert isinstance(module, NeuralVocoder)
        level_BFL = module.levels(batch.logmel_BFM)
        wanted_BFL = batch.level_BFL
        wrong_B = (level_BFL.exp() - wanted_BFL.exp()).norm(dim=(1, 2)) / wanted_BFL.exp().norm(dim=(1, 2))
        on_magnitudes = wrong_B.mean() + (level_BFL.clamp_min(math.log(FLOOR)) - wanted_BFL).abs().mean()
        if not batch.waveform:  # an engine's state holds every parameter's moments from its first step on
            return on_magnitudes + 0.0 * sum(parameter.sum() for parameter in module.parameters())
        decoded_BN, _ = module.block(level_BFL, self.codec.vocoder, None, level_BFL.shape[1])
        with torch.autocast(decoded_BN.device.type, enabled=False):
            distance = stft_distance(decoded_BN, batch.wav_BN)
            rate = self.codec.sample_rate
            logmel = (log_mel(decoded_BN, rate) - log_mel(batch.wav_BN, rate)).abs().mean()
        loss = MAGNITUDE_WEIGHT * on_magnitudes + distance.convergence + distance.level + LOGMEL_WEIGHT * logmel
        if not batch.adversarial:
            return loss
        assert self.judges is not None
        self._decoded_BN = decoded_BN.detach()
        self.judges.requires_grad_(False)
        fooled = self.judges.loss_of_generator(decoded_BN, batch.wav_BN)
        self.judges.requires_grad_(True)
        return loss + self.config.vocoder.adversarial * fooled

    def loss_of_judges(self, module: nn.Module, batch: Crops) -> Tensor:
        """After the vocoder's own turn on the same crops."""
        assert isinstance(module, Discriminators)
        assert self._decoded_BN is not None
        return module.loss(self._decoded_BN, batch.wav_BN)

    def make_engine(self, module: LossModule, groups: list[dict[str, Any]], average: State | None) -> VocoderEngine:
        return VocoderEngine(self, module, groups, average)

    def keep(self, engine: Engine, **_: object) -> None:
        """Leave the averaged weights in the codec, rounded to half precision as they are stored."""
        state = _part(engine.averaged_state(), "vocoder")
        self.vocoder.load_state_dict({name: value.half().float() for name, value in state.items()})
        self.vocoder.eval().requires_grad_(False)


class VocoderEngine(TorchEngine):
    """The vocoder's engine, and with `vocoder.adversarial` that of the discriminators, which takes its turn after each
    of the vocoder's. States hold both; only the vocoder's weights are averaged."""

    def __init__(self, task: VocoderTask, module: LossModule, groups: list[dict[str, Any]], average: State | None):
        parts, config = module.model, task.config.train
        assert isinstance(parts, nn.ModuleDict)
        own = None if average is None else _part(average, "vocoder")
        super().__init__(LossModule(parts["vocoder"], task.loss), groups, config, own)
        self._judges: TorchEngine | None = None
        if "judges" in parts:
            judges, plain = LossModule(parts["judges"], task.loss_of_judges), config.model_copy(update={"ema": 0.0})
            self._judges = TorchEngine(judges, _groups(parts["judges"]), plain, None)

    def forward(self, batch: Batch) -> Tensor:
        self._batch = batch
        return super().forward(batch)

    def step(self, lr: float) -> float | None:
        norm, batch = super().step(lr), self._batch
        self.figures = {}
        if norm is not None and self._judges is not None and isinstance(batch, Crops) and batch.adversarial:
            loss = self._judges.forward(batch)
            self._judges.backward(loss, is_last=True)
            self._judges.step(lr)
            self.figures = {"loss_judges": float(loss.detach())}
        return norm

    def averaged_state(self) -> State:
        with self.averaged():
            return _prefixed(super().model_state(), "vocoder")

    def model_state(self) -> State:
        state = _prefixed(super().model_state(), "vocoder")
        return state if self._judges is None else state | _prefixed(self._judges.model_state(), "judges")

    def optimizer_state(self) -> State:
        state = _prefixed(super().optimizer_state(), "vocoder")
        if self._judges is None or not self._judges.optimizer.state:  # before its first turn
            return state
        return state | _prefixed(self._judges.optimizer_state(), "judges")

    def load_optimizer_state(self, state: State) -> None:
        super().load_optimizer_state(_part(state, "vocoder"))
        if self._judges is not None and (judges := _part(state, "judges")):
            self._judges.load_optimizer_state(judges)


def _groups(module: nn.Module) -> list[dict[str, Any]]:
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY, "lr_scale": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def _prefixed(state: State, name: str) -> State:
    return {f"{name}.{key}": value for key, value in state.items()}


def _part(state: State, name: str) -> State:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
