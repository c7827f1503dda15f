"""Original EnCodec checkpoints converted: a tiny model of the published layer plan, its tensors named by hand, and the
`encodec` package's own 24 kHz model with random weights."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmttm.codec import load_codec
from ssmttm.codec.convert_encodec import convert, encodec_package, main
from ssmttm.errors import UserError

CONFIG: dict[str, Any] = {
    "hidden_size": 8,
    "num_filters": 2,
    "upsampling_ratios": [2, 2, 2, 2],
    "codebook_size": 16,
    "target_bandwidths": [18.0],
}
BOOKS = 3

# transformers' module of each module of the original, which wraps its convolutions twice. Layers without tensors
# (activations) have numbers too: 2, 5, 8, 11, 14.
CONVOLUTIONS = {
    "encoder.layers.0.conv": "encoder.model.0.conv.conv",
    "encoder.layers.1.block.1.conv": "encoder.model.1.block.1.conv.conv",
    "encoder.layers.1.block.3.conv": "encoder.model.1.block.3.conv.conv",
    "encoder.layers.1.shortcut.conv": "encoder.model.1.shortcut.conv.conv",
    "encoder.layers.3.conv": "encoder.model.3.conv.conv",
    "encoder.layers.4.block.1.conv": "encoder.model.4.block.1.conv.conv",
    "encoder.layers.4.block.3.conv": "encoder.model.4.block.3.conv.conv",
    "encoder.layers.4.shortcut.conv": "encoder.model.4.shortcut.conv.conv",
    "encoder.layers.6.conv": "encoder.model.6.conv.conv",
    "encoder.layers.7.block.1.conv": "encoder.model.7.block.1.conv.conv",
    "encoder.layers.7.block.3.conv": "encoder.model.7.block.3.conv.conv",
    "encoder.layers.7.shortcut.conv": "encoder.model.7.shortcut.conv.conv",
    "encoder.layers.9.conv": "encoder.model.9.conv.conv",
    "encoder.layers.10.block.1.conv": "encoder.model.10.block.1.conv.conv",
    "encoder.layers.10.block.3.conv": "encoder.model.10.block.3.conv.conv",
    "encoder.layers.10.shortcut.conv": "encoder.model.10.shortcut.conv.conv",
    "encoder.layers.12.conv": "encoder.model.12.conv.conv",
    "encoder.layers.15.conv": "encoder.model.15.conv.conv",
    "decoder.layers.0.conv": "decoder.model.0.conv.conv",
    "decoder.layers.3.conv": "decoder.model.3.convtr.convtr",
    "decoder.layers.4.block.1.conv": "decoder.model.4.block.1.conv.conv",
    "decoder.layers.4.block.3.conv": "decoder.model.4.block.3.conv.conv",
    "decoder.layers.4.shortcut.conv": "decoder.model.4.shortcut.conv.conv",
    "decoder.layers.6.conv": "decoder.model.6.convtr.convtr",
    "decoder.layers.7.block.1.conv": "decoder.model.7.block.1.conv.conv",
    "decoder.layers.7.block.3.conv": "decoder.model.7.block.3.conv.conv",
    "decoder.layers.7.shortcut.conv": "decoder.model.7.shortcut.conv.conv",
    "decoder.layers.9.conv": "decoder.model.9.convtr.convtr",
    "decoder.layers.10.block.1.conv": "decoder.model.10.block.1.conv.conv",
    "decoder.layers.10.block.3.conv": "decoder.model.10.block.3.conv.conv",
    "decoder.layers.10.shortcut.conv": "decoder.model.10.shortcut.conv.conv",
    "decoder.layers.12.conv": "decoder.model.12.convtr.convtr",
    "decoder.layers.13.block.1.conv": "decoder.model.13.block.1.conv.conv",
    "decoder.layers.13.block.3.conv": "decoder.model.13.block.3.conv.conv",
    "decoder.layers.13.shortcut.conv": "decoder.model.13.shortcut.conv.conv",
    "decoder.layers.15.conv": "decoder.model.15.conv.conv",
}
LSTMS = {"encoder.layers.13.lstm": "encoder.model.13.lstm", "decoder.layers.1.lstm": "decoder.model.1.lstm"}
CODEBOOKS = {f"quantizer.layers.{k}.codebook": f"quantizer.vq.layers.{k}._codebook" for k in range(BOOKS)}


@pytest.fixture(scope="module")
def model():
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**CONFIG))
    for index, layer in enumerate(model.quantizer.layers):  # made of zeros
        torch.nn.init.normal_(layer.codebook.embed, std=0.5 / (index + 1))
        torch.nn.init.uniform_(layer.codebook.cluster_size)
    return model.eval()


@pytest.fixture(scope="module")
def original(model) -> dict[str, torch.Tensor]:
    """The model's state under the names of the original checkpoint."""
    named = model.state_dict()
    original = {}
    for ours, theirs in CONVOLUTIONS.items():
        original[f"{theirs}.weight_g"] = named.pop(f"{ours}.parametrizations.weight.original0")
        original[f"{theirs}.weight_v"] = named.pop(f"{ours}.parametrizations.weight.original1")
        original[f"{theirs}.bias"] = named.pop(f"{ours}.bias")
    for ours, theirs in LSTMS.items():
        for layer in (0, 1):
            for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                original[f"{theirs}.{leaf}_l{layer}"] = named.pop(f"{ours}.{leaf}_l{layer}")
    for ours, theirs in CODEBOOKS.items():
        for leaf in ("inited", "cluster_size", "embed", "embed_avg"):
            original[f"{theirs}.{leaf}"] = named.pop(f"{ours}.{leaf}")
    assert not named
    return original


@torch.no_grad()
def test_a_converted_checkpoint_is_the_model(model, original: dict[str, torch.Tensor], tmp_path: Path) -> None:
    from transformers import EncodecModel

    source, out = tmp_path / "encodec_24khz-tiny.th", tmp_path / "converted"
    torch.save(original, source)
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
    main([str(source), str(out), "--config", str(tmp_path / "tiny.json")])
    wav = torch.randn(2, 1, 16 * 50, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = model.encode(wav, bandwidth=18.0).audio_codes[0]
    audio = model.decode(codes[None], [None]).audio_values
    codec = load_codec(str(out))
    assert torch.equal(codec.encode(wav), codes)
    torch.testing.assert_close(codec.decode_codes(codes), audio, rtol=1e-4, atol=1e-5)
    again = EncodecModel.from_pretrained(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.fixture
def package_model(monkeypatch: pytest.MonkeyPatch):
    """The `encodec` package's own 24 kHz model, whose weights, random here, it hands out as the published ones."""
    try:
        package = encodec_package()
    except UserError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    model = package.EncodecModel.encodec_model_24khz(pretrained=False)
    with torch.no_grad():
        for name, gain in model.named_parameters():
            if name.endswith("weight_g"):  # as made they let next to nothing through
                gain.mul_(2)
        heard = model.encoder(torch.randn(1, 1, 320 * 200) * 0.1)
        for index, layer in enumerate(model.quantizer.vq.layers):  # made of zeros
            entries = heard.std(-1) * 0.9**index * torch.randn(1024, 128)
            layer._codebook.embed.copy_(entries + heard.mean(-1) if index == 0 else entries)
    monkeypatch.setattr(package.EncodecModel, "_get_pretrained", lambda *_: model.state_dict())
    return model


@pytest.mark.slow
@torch.no_grad()
def test_codes_and_audio_are_those_of_the_encodec_package(package_model, tmp_path: Path) -> None:
    main(["encodec_24khz", str(tmp_path / "loaded")])
    torch.save(package_model.state_dict(), tmp_path / "encodec_24khz-random.th")
    main([str(tmp_path / "encodec_24khz-random.th"), str(tmp_path / "read")])
    codec = load_codec(str(tmp_path / "loaded"))
    assert codec.fingerprint() == load_codec(str(tmp_path / "read")).fingerprint()
    wav = torch.randn(2, 1, 320 * 90, generator=torch.Generator().manual_seed(0)) * 0.1
    for bandwidth, books in ((1.5, 2), (24.0, 32)):
        package_model.set_target_bandwidth(bandwidth)
        ((codes, scale),) = package_model.encode(wav)
        assert scale is None
        assert codes.shape == (2, books, 90)
        assert len(codes[:, 0].unique()) > 20
        assert torch.equal(codec.encode(wav)[:, :books], codes)
        audio = package_model.decode([(codes, None)])
        assert audio.std() > 0.1
        torch.testing.assert_close(codec.decode_codes(codes), audio, rtol=1e-4, atol=1e-5)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "encodec", None)
    with pytest.raises(SystemExit):
        main(["encodec_24khz", str(tmp_path / "out")])
    assert (
        capsys.readouterr().err == "error: encodec is not installed; install it with: pip install 'ssmttm[encodec]'\n"
    )
    assert "torchaudio" not in sys.modules


def test_run_as_a_module_it_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssmttm.codec.convert_encodec", str(tmp_path / "none.th"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path}/none.th does not exist\n"


def test_files_that_are_no_24_khz_checkpoint_are_refused(original: dict[str, torch.Tensor], tmp_path: Path) -> None:
    source = tmp_path / "file.th"
    stereo = {**original, "encoder.model.0.conv.norm.weight": torch.ones(2)}
    fewer = {name: tensor for name, tensor in original.items() if "lstm" not in name}
    for content, message in (
        (stereo, "'encoder.model.0.conv.norm.weight' is no tensor of a 24 kHz EnCodec checkpoint"),
        (fewer, "file.th does not fit the configured model .*lstm"),
        ({"best_state": original}, "holds more than tensors"),
    ):
        torch.save(content, source)
        with pytest.raises(UserError, match=message):
            convert(str(source), str(tmp_path / "out"), CONFIG)
    for data in (pickle.dumps(Path("x"), protocol=2), b"nothing"):
        source.write_bytes(data)
        with pytest.raises(UserError, match="is not a checkpoint of tensors alone"):
            convert(str(source), str(tmp_path / "out"), CONFIG)
    assert not (tmp_path / "out").exists()
