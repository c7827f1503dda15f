"""Music without its singers: htdemucs (arXiv 2211.08553) separates the stems, all but the vocals are summed.

Only the parts of demucs that compute are used; audio is read and resampled by `ssmttm.audio`, so that neither
torchaudio nor ffmpeg is needed.

Shapes: C channels, N samples, S stems.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from ssmttm import storage
from ssmttm.audio import Audio, resample
from ssmttm.config import CorpusConfig
from ssmttm.errors import MissingExtraError, UserError

FILE_VARIABLE = "SSMTTM_DEMUCS"
# Where demucs itself takes `htdemucs` from since 4.1: one model, its class and arguments in the file's metadata. The
# older checkpoints are pickles and are not read.
HUB_REPOSITORY, HUB_FILE = "adefossez/HTDemucs", "955717e8.safetensors"
MODEL_CLASS = "demucs.htdemucs.HTDemucs"
OVERLAP = 0.25  # of neighbouring windows, demucs' default


def vocal_remover(corpus: CorpusConfig) -> VocalRemover | None:
    """What takes the vocals out of a corpus; None with `corpus.vocals=keep`.

    Raises:
        UserError: as `VocalRemover` does.
    """
    return None if corpus.vocals == "keep" else VocalRemover("cuda" if corpus.gpus_per_actor else "cpu")


class VocalRemover:
    """Takes the vocals out of audio. The weights are the safetensors file that `SSMTTM_DEMUCS` names, else the
    published one from the Hugging Face cache, downloaded if it is not there.

    No random shifts: the same audio gives the same samples, on one device and number of threads.

    Attributes:
        fingerprint: SHA-256 of the weights.

    Raises:
        UserError: if demucs is not installed, or the weights are missing or no htdemucs model.
    """

    def __init__(self, device: str = "cpu"):
        try:
            from demucs.hf import load_safetensors_model
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "demucs", "vocals") from None
        path = _weights_path()
        _check_weights(path)
        self.fingerprint = storage.digest(path)
        model: Any = load_safetensors_model(path).eval().to(device)
        if "vocals" not in model.sources:
            raise UserError(f"{path} knows no vocals, only {', '.join(model.sources)}; give the weights of htdemucs")
        if model.crosstransformer is not None:
            model.crosstransformer.sin_random_shift = 0  # else positions are drawn again in each call
        self._model = model
        self._device = device
        self._kept = [index for index, stem in enumerate(model.sources) if stem != "vocals"]

    @torch.inference_mode()
    def __call__(self, audio: Audio) -> Audio:
        """Mono or stereo audio at any rate, without its vocals: the same rate, channels and number of samples.

        The model works at 44.1 kHz in stereo: nothing above 22.05 kHz is left, and mono goes in as two equal channels
        and comes out as their mean.

        Raises:
            UserError: for more than two channels.
        """
        from demucs.apply import apply_model

        channels, length = audio.samples.shape
        if channels > 2:
            raise UserError(f"vocals are removed from mono or stereo audio, not from {channels} channels; mix it down")
        mix_CN = torch.from_numpy(resample(audio, self._model.samplerate).samples).expand(2, -1)
        # The scale that demucs separates at. The offset belongs to the mix, so it is added once, not per stem.
        mono_N = mix_CN.mean(0)
        offset, scale = mono_N.mean(), mono_N.std() + 1e-8
        stems_SCN = apply_model(
            self._model,
            ((mix_CN - offset) / scale)[None],
            shifts=0,
            split=True,
            overlap=OVERLAP,
            device=self._device,
        )[0]
        rest_CN = stems_SCN[self._kept].sum(0) * scale + offset
        if channels == 1:
            rest_CN = rest_CN.mean(0, keepdim=True)
        rest = resample(Audio(rest_CN.numpy(), self._model.samplerate), audio.sample_rate).samples[:, :length]
        # Resampling there and back rounds the length twice, which may cost or add a sample.
        return Audio(np.pad(rest, ((0, 0), (0, length - rest.shape[1]))), audio.sample_rate)


def _weights_path() -> str:
    path = os.environ.get(FILE_VARIABLE)
    if path:
        if not os.path.isfile(path):
            raise UserError(f"{FILE_VARIABLE}={path} is no file; give the path of {HUB_FILE} from {HUB_REPOSITORY}")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(HUB_REPOSITORY, HUB_FILE)
    except OSError as error:  # all of the hub's network and cache errors
        raise UserError(
            f"the weights of htdemucs are not in the Hugging Face cache and cannot be downloaded "
            f"({type(error).__name__}); fetch {HUB_FILE} of {HUB_REPOSITORY} and set {FILE_VARIABLE} to its path"
        ) from None


def _check_weights(path: str) -> None:
    """Refuse what is not an htdemucs model. demucs imports and calls whatever class the file names, so a file could
    otherwise run anything."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error}); give {HUB_FILE} of {HUB_REPOSITORY}") from None
    if metadata.get("klass") != MODEL_CLASS or "structure" in metadata:
        raise UserError(f"{path} is no htdemucs model; give {HUB_FILE} of {HUB_REPOSITORY}")
