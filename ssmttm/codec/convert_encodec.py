"""Original EnCodec checkpoints (`encodec_24khz-*.th`, the `encodec` package's) in the layout that `load_codec` reads.

    python -m ssmttm.codec.convert_encodec FILE.th OUT_DIR [--config CONFIG.json]
    python -m ssmttm.codec.convert_encodec encodec_24khz OUT_DIR

A file is a dictionary of tensors, for which the package is not needed; without `--config` (keys of transformers'
`EncodecConfig`) it must be of the published 24 kHz model. `encodec_24khz` is that model as the package loads it (extra:
encodec), from its cache or its address.
"""

from __future__ import annotations

import argparse
import importlib
import io
import pickle
import re
import sys
import types
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ssmttm import storage
from ssmttm.codec.encodec import EncodecCodec
from ssmttm.codec.store import PUBLISHED_CONFIG_NAME, PUBLISHED_WEIGHTS_NAME
from ssmttm.errors import MissingExtraError, UserError, exit_on_user_error

PACKAGE_MODEL = "encodec_24khz"
# Original names to transformers': both number the layers alike; transformers has no wrappers around convolutions and
# codebooks.
MODULES = (
    (r"^(encoder|decoder)\.model\.(.+?)\.(conv\.conv|convtr\.convtr)\.", r"\1.layers.\2.conv."),
    (r"^(encoder|decoder)\.model\.(\d+)\.lstm\.", r"\1.layers.\2.lstm."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)
WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def published_name(name: str) -> str:
    """What transformers calls a tensor of an original checkpoint.

    Raises:
        UserError: if it is none of the 24 kHz model's.
    """
    for pattern, replacement in MODULES:
        renamed, found = re.subn(pattern, replacement, name)
        if found:
            module, _, leaf = renamed.rpartition(".")
            return f"{module}.{WEIGHT_NORM.get(leaf, leaf)}"
    raise UserError(f"'{name}' is no tensor of a 24 kHz EnCodec checkpoint (the stereo 48 kHz model is not supported)")


def encodec_package() -> types.ModuleType:
    """The `encodec` package. It imports torchaudio, which only its reading and resampling of files needs; where that
    cannot be imported (its wheels want a torch for CUDA) an empty module stands in while the package is.

    Raises:
        MissingExtraError: if it is not installed.
    """
    stand_in = None
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        stand_in = sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        return importlib.import_module("encodec")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "encodec", "encodec") from None
    finally:
        if stand_in is not None:
            del sys.modules["torchaudio"]


def _read(uri: str) -> dict[str, Tensor]:
    if uri == PACKAGE_MODEL:
        return encodec_package().EncodecModel.encodec_model_24khz().state_dict()
    try:
        tensors = torch.load(io.BytesIO(storage.read_bytes(uri)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{uri} is not a checkpoint of tensors alone ({reason}); fetch it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{uri} holds more than tensors by name; give an encodec_24khz-*.th file")
    return tensors


def convert(source: str, out: str, config: dict[str, Any] | None = None) -> None:
    """Write a checkpoint as `config.json` and `model.safetensors` of transformers' `EncodecModel`.

    Args:
        source: path or URI of the original file, in which nothing is executed; or `encodec_24khz`, loaded by the
            package.
        out: folder or URI to write.
        config: keys of `EncodecConfig`; default: the published 24 kHz model.

    Raises:
        UserError: if `out` cannot be written, the file cannot be read, the package is not installed, or the tensors are
            not those of the configured model.
    """
    storage.check_writable(storage.join(out, PUBLISHED_CONFIG_NAME))
    codec = EncodecCodec.from_description(config or {})
    tensors = {published_name(name): tensor for name, tensor in _read(source).items()}
    try:
        codec.model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} does not fit the configured model ({reason}); name its --config") from None
    weights = {name: tensor.contiguous() for name, tensor in codec.model.state_dict().items()}
    described = {**codec.model.config.to_diff_dict(), "architectures": ["EncodecModel"]}
    storage.make_dirs(out)
    # The loader looks for the config, so it comes last.
    storage.write_bytes(
        storage.join(out, PUBLISHED_WEIGHTS_NAME), safetensors.torch.save(weights, metadata={"format": "pt"})
    )
    storage.write_json(storage.join(out, PUBLISHED_CONFIG_NAME), described)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FILE.th", help=f"original checkpoint, or {PACKAGE_MODEL}")
    parser.add_argument("out", metavar="OUT_DIR", help="folder or URI to write; codec.path of the jobs")
    parser.add_argument("--config", metavar="CONFIG.json", help="keys of EncodecConfig (default: the 24 kHz model)")
    arguments = parser.parse_args(argv)
    with exit_on_user_error():
        convert(arguments.source, arguments.out, storage.read_json(arguments.config) if arguments.config else None)
        print(f"{arguments.out}: load it with codec.name=encodec codec.path={arguments.out}")


if __name__ == "__main__":
    main()
