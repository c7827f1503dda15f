"""Original EnCodec checkpoints (`encodec_24khz-*.th`, the `encodec` package's) in the layout that `load_codec` reads.

    python -m ssmttm.codec.convert_encodec FILE.th OUT_DIR [--config CONFIG.json]

The file is a dictionary of tensors; neither that package nor torchaudio, which it brings along, is needed. Without
`--config` (keys of transformers' `EncodecConfig`) it must be of the published 24 kHz model.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ssmttm import storage
from ssmttm.codec.encodec import EncodecCodec
from ssmttm.codec.store import PUBLISHED_CONFIG_NAME, PUBLISHED_WEIGHTS_NAME
from ssmttm.errors import UserError, exit_on_user_error

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


def _read(uri: str) -> dict[str, Tensor]:
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
        source: path or URI of the original file; nothing in it is executed.
        out: folder or URI to write.
        config: keys of `EncodecConfig`; default: the published 24 kHz model.

    Raises:
        UserError: if the file cannot be read, or its tensors are not those of the configured model.
    """
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
    parser.add_argument("source", metavar="FILE.th", help="original checkpoint")
    parser.add_argument("out", metavar="OUT_DIR", help="folder or URI to write; codec.path of the jobs")
    parser.add_argument("--config", metavar="CONFIG.json", help="keys of EncodecConfig (default: the 24 kHz model)")
    arguments = parser.parse_args(argv)
    with exit_on_user_error():
        convert(arguments.source, arguments.out, storage.read_json(arguments.config) if arguments.config else None)
        print(f"{arguments.out}: load it with codec.name=encodec codec.path={arguments.out}")


if __name__ == "__main__":
    main()
