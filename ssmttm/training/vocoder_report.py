"""The neural vocoder beside Griffin-Lim on clips neither has seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmttm.audio import Audio
from ssmttm.codec.metrics import logmel_l1, stft_distance
from ssmttm.codec.mini import MiniCodec
from ssmttm.threads import torch_threads

RIVAL_ITERATIONS = 16
SPEED_THREADS = 2
SAMPLE_CLIPS = 4


def with_griffin_lim(codec: MiniCodec, iterations: int = RIVAL_ITERATIONS) -> MiniCodec:
    """The same codec without its vocoder, decoding with so many projections."""
    plain = MiniCodec(codec.config.model_copy(update={"griffin_lim_iterations": iterations}))
    plain.load_state_dict(codec.state_dict(), strict=False)
    return plain.eval()


@torch.inference_mode()
def compare(codec: MiniCodec, originals: Sequence[np.ndarray]) -> tuple[dict[str, Any], dict[str, Audio]]:
    """Both decoders on the same latents of held-out clips (float32 [N] each, zero-padded to whole frames).

    Returns:
        (figures, samples): `latents` and `codes` (continuous latents, and those of all codebooks), each by decoder
        with `stft_distance` (of which `convergence` and `level` are the parts) and `logmel_l1`, means over clips;
        `x_realtime` at two threads; the decoded first clips.
    """
    decoders = {"neural": codec, f"griffin_lim_{RIVAL_ITERATIONS}": with_griffin_lim(codec)}
    figures: dict[str, Any] = {"latents": {}, "codes": {}}
    samples: dict[str, Audio] = {}
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for index, wav_N in enumerate(originals):
        wav_BN = torch.from_numpy(wav_N)[None]
        codes_BKT, fine_BDT = codec.encode_with_latents(wav_BN[:, None])
        coarse_BDT = codec.coarse(codes_BKT[:, 0])
        for source, fine in (("latents", fine_BDT), ("codes", codec.fine_from_codes(codes_BKT))):
            for name, decoder in decoders.items():
                decoded_BN = decoder.decode(coarse_BDT, fine)[:, 0, : len(wav_N)]
                rows.setdefault((source, name), []).append(_distances(decoded_BN, wav_BN, codec.sample_rate))
                if index < SAMPLE_CLIPS and source == "latents":
                    samples[f"{index}-{name}"] = Audio(decoded_BN.numpy(), codec.sample_rate)
    for (source, name), values in rows.items():
        convergence, level, logmel = (round(float(value), 4) for value in np.mean(values, axis=0))
        figures[source][name] = {
            "stft_distance": round(convergence + level, 4),
            "convergence": convergence,
            "level": level,
            "logmel_l1": logmel,
        }
    figures["x_realtime"] = {name: _speed(decoder, codes_BKT) for name, decoder in decoders.items()}
    return figures, samples


def _distances(decoded_BN: Tensor, original_BN: Tensor, sample_rate: int) -> tuple[float, float, float]:
    distance = stft_distance(decoded_BN, original_BN)
    return float(distance.convergence), float(distance.level), logmel_l1(decoded_BN, original_BN, sample_rate)


def _speed(codec: MiniCodec, codes_BKT: Tensor) -> float:
    """Seconds of audio that one second of `SPEED_THREADS` threads decodes: the best of three."""
    taken = []
    with torch_threads(SPEED_THREADS):
        for _ in range(3):
            start = time.perf_counter()
            codec.decode_codes(codes_BKT)
            taken.append(time.perf_counter() - start)
    return round(codes_BKT.shape[-1] / codec.frame_rate / min(taken), 1)
