"""What of a clip's music survives the codec, from sound to sound: key, tempo, drums, genre and lead instrument.

    python tests/benchmarks/codec_ceiling.py --corpus FOLDER [--bundle FOLDER] [--clips 96] [codec.fft_size=4096 ...]

FOLDER holds a composed corpus. Held-out clips are measured as they are and after each step of the pipeline: log-mel
bands alone, PCA latents, all codebooks, codebook 0, and codebook 0 completed by stage 2. Beside it stands what a
language model would find in codebook 0: nats per code of a unigram and a bigram model, and what a linear probe reads
from a clip's histogram of codes. With --bundle its codec and stage 2 are measured; otherwise a codec is fitted with the
settings, and nothing is completed. The result goes to results/codec_ceiling.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine
from torch import Tensor

from ssmttm import config as configuration
from ssmttm.audio import Audio, mel_to_hz
from ssmttm.bundle.load import Bundle, load_bundle
from ssmttm.codec.base import Codec
from ssmttm.codec.metrics import NUM_MELS, log_mel
from ssmttm.codec.mini import MiniCodec
from ssmttm.config import Config
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.windows import WindowRenderer
from ssmttm.evaluation import adherence
from ssmttm.evaluation.embeddings import log_mel as log_mel_frames
from ssmttm.evaluation.embeddings import logmel_statistics
from ssmttm.evaluation.measures import ClipAnalysis, analyse
from ssmttm.sources.manifest import Track
from ssmttm.sources.readers import read_source
from ssmttm.training.clips import ClipReader, choose_clips

RESULTS = Path(__file__).parent / "results"
REGIONS_HZ = (0, 250, 1000, 4000, 12_000)
AUDIBLE_NATS = 8.0  # 70 dB below a clip's loudest band nothing is heard
BIGRAM_PRIOR = 20.0  # unigram draws added to the counts that follow a code


def region_errors(decoded_N: np.ndarray, original_N: np.ndarray, sample_rate: int) -> list[float]:
    """Mean absolute difference of log-mel bands, in nats, whole and by `REGIONS_HZ`, over what is audible."""
    original, decoded = (log_mel(torch.from_numpy(wav)[None], sample_rate)[0] for wav in (original_N, decoded_N))
    floor = original.max() - AUDIBLE_NATS
    error_M = (original.clamp_min(floor) - decoded.clamp_min(floor)).abs().mean(0)
    top = 15 + 27 * np.log(sample_rate / 2000) / np.log(6.4)
    region_M = np.digitize(mel_to_hz(np.linspace(0, top, NUM_MELS + 2)[1:-1]), REGIONS_HZ)
    parts = [error_M[torch.from_numpy(region_M == region)] for region in range(1, len(REGIONS_HZ))]
    return [float(part.mean()) for part in (error_M, *parts)]


def bands_codec(codec: MiniCodec) -> MiniCodec:
    """A codec whose latents are the log-mel bands themselves."""
    plain = MiniCodec(codec.config.model_copy(update={"pca_dim": codec.config.num_mels}))
    plain.basis_MP.copy_(torch.eye(codec.config.num_mels))
    return plain


class Pipeline:
    """Every step a clip can be followed to."""

    def __init__(self, codec: Codec, bundle: Bundle | None):
        self.codec, self._bundle = codec, bundle
        self._bands = bands_codec(codec) if isinstance(codec, MiniCodec) else None
        if bundle is not None:
            self._renderer = WindowRenderer(bundle.completer, bundle.codec, bundle.config.generation)

    @torch.inference_mode()
    def steps(self, wav_N: np.ndarray, prompt: str, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each step's name and the clip after it, float32 [N]."""
        wav_B1N = torch.from_numpy(wav_N)[None, None]
        yield "original", wav_N
        if self._bands is not None:
            codes_BKT, fine_BDT = self._bands.encode_with_latents(wav_B1N)
            yield "bands", self._heard(self._bands.decode(self._bands.coarse(codes_BKT[:, 0]), fine_BDT), wav_N)
        codes_BKT, fine_BDT = self.codec.encode_with_latents(wav_B1N)
        coarse_BDT = self.codec.coarse(codes_BKT[:, 0])
        yield "latents", self._heard(self.codec.decode(coarse_BDT, fine_BDT), wav_N)
        yield "codebooks", self._heard(self.codec.decode_codes(codes_BKT), wav_N)
        yield "coarse", self._heard(self.codec.decode(coarse_BDT, torch.zeros_like(fine_BDT)), wav_N)
        if self._bundle is not None:
            yield "completed", self._heard(self._completed(codes_BKT[:, 0], prompt, seed), wav_N)

    def _completed(self, codes_BT: Tensor, prompt: str, seed: int) -> Tensor:
        assert self._bundle is not None
        piece = Piece.of(self._bundle, MusicRequest(prompt, seed=seed), codes_BT.shape[1])
        return torch.cat(list(self._renderer.render(iter(codes_BT[:, None].unbind(dim=2)), [piece])), dim=-1)

    @staticmethod
    def _heard(decoded_B1N: Tensor, wav_N: np.ndarray) -> np.ndarray:
        return decoded_B1N[0, 0, : len(wav_N)].numpy()


def music_table(
    pipeline: Pipeline, wavs: Sequence[np.ndarray], tracks: Sequence[Track], probes: adherence.Probes
) -> dict[str, dict[str, Any]]:
    """Shares of clips heard as their tags say, and errors, after every step."""
    rate = pipeline.codec.sample_rate
    clips: dict[str, list[ClipAnalysis]] = {}
    errors: dict[str, list[list[float]]] = {}
    for seed, (wav_N, track) in enumerate(zip(wavs, tracks, strict=True)):
        for name, heard_N in pipeline.steps(wav_N, track.captions[0], seed):
            clips.setdefault(name, []).append(analyse(Audio(heard_N[None], rate), log_mel_frames(heard_N, rate)))
            errors.setdefault(name, []).append(region_errors(heard_N, wav_N, rate))
    tags = [track.tags for track in tracks]
    names = ("all", *(f"{low}-{high} Hz" for low, high in pairwise(REGIONS_HZ)))
    table = {}
    for name, heard in clips.items():
        hits = adherence.follows(probes.hear(heard), heard, tags)
        scores = {name: adherence.share(name, hits[name], tags) for name in hits}
        means = np.mean(errors[name], axis=0)
        table[name] = {
            **{key: round(value, 3) for key, value in scores.items()},
            "logmel_l1": {region: round(float(mean), 3) for region, mean in zip(names, means, strict=True)},
        }
    return table


@torch.inference_mode()
def first_codes(codec: Codec, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Codebook 0 of each clip, int64 [T]."""
    return [codec.encode(torch.from_numpy(wav_N)[None, None])[0, 0].numpy() for wav_N in wavs]


def code_table(
    size: int, training: Sequence[np.ndarray], held_out: Sequence[np.ndarray], tags: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Nats per held-out code of unigram and bigram models, entries used, and shares that linear probes read from
    histograms of codes; `tags` are of the training and of the held-out clips."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    unigram = np.bincount(np.concatenate(training), minlength=size) + 0.5
    unigram /= unigram.sum()
    pairs = np.zeros((size, size))
    for codes in training:
        np.add.at(pairs, (codes[:-1], codes[1:]), 1)
    before = np.concatenate([codes[:-1] for codes in held_out])
    after = np.concatenate([codes[1:] for codes in held_out])
    likelihood = (pairs[before, after] + BIGRAM_PRIOR * unigram[after]) / (pairs.sum(1)[before] + BIGRAM_PRIOR)
    row = {
        "unigram_nats": -float(np.log(unigram[after]).mean()),
        "bigram_nats": -float(np.log(likelihood).mean()),
        "entries_used": float(np.mean(np.bincount(np.concatenate(held_out), minlength=size) > 0)),
        "repeats": float(np.mean(before == after)),
    }
    features = [np.stack([np.bincount(codes, minlength=size) for codes in part]) for part in (training, held_out)]
    for name in ("genre", "lead", "key"):
        labels = [[f"{tag[name]}" for tag in part] for part in tags]
        with threadpool_limits(1):
            model = LogisticRegression(C=1.0, tol=1e-3, max_iter=300).fit(np.sqrt(features[0]), labels[0])
            row[f"{name}_from_histogram"] = float(np.mean(model.predict(np.sqrt(features[1])) == labels[1]))
    return {name: round(value, 3) for name, value in row.items()}


def load_wavs(tracks: Sequence[Track], settings: Config) -> list[np.ndarray]:
    reader = ClipReader(settings)
    wavs = list(reader.read(tracks, {}))
    assert not reader.rejects, reader.rejects[0]
    return wavs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--bundle")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--probe-clips", type=int, default=1200)
    parser.add_argument("--out", default=str(RESULTS / "codec_ceiling.json"))
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = configuration.load("mini", [f"corpus.source={arguments.corpus}", *arguments.overrides])
    tracks = read_source(settings.corpus.source, settings.corpus)
    to_listen = choose_clips(tracks, arguments.probe_clips, settings.train.seed)[0]
    held_out = [track for track in tracks if track.split == "val"][: arguments.clips]
    training, originals = load_wavs(to_listen, settings), load_wavs(held_out, settings)
    rate = settings.codec.sample_rate
    tags = [[track.tags for track in part] for part in (to_listen, held_out)]
    probes = adherence.Probes([logmel_statistics(wav, rate) for wav in training], tags[0])
    if arguments.bundle:
        bundle = load_bundle(arguments.bundle, "cpu")
        pipeline = Pipeline(bundle.codec, bundle)
    else:
        codec = MiniCodec(settings.codec)
        codec.fit(training[: settings.codec.fit_clips], settings.train.seed)  # the job's own clips, in its order
        pipeline = Pipeline(codec, None)
    codes = [first_codes(pipeline.codec, part) for part in (training, originals)]
    content = {
        "machine": machine(1, torch.device("cpu")),
        "clips": len(held_out),
        "codec": pipeline.codec.describe(),
        "music": music_table(pipeline, originals, held_out, probes),
        "codebook_0": code_table(pipeline.codec.codebook_size, *codes, tags),
    }
    for name, row in content["music"].items():
        print(f"{name:10s}" + "  ".join(f"{key} {value}" for key, value in row.items()))
    print("codebook 0: " + "  ".join(f"{key} {value}" for key, value in content["codebook_0"].items()))
    Path(arguments.out).parent.mkdir(exist_ok=True)
    Path(arguments.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
