"""The whole evaluation in process, on the session's tiny corpus and a bundle of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import shared_bundle, shared_single_stage, write_tiny_bundle

from jobs import evaluate as job
from ssmttm import audio, config, storage
from ssmttm.audio import Audio
from ssmttm.conditions.registry import widths_of
from ssmttm.errors import UserError
from ssmttm.evaluation.evaluate import evaluate
from ssmttm.evaluation.results import card_figures

SETS = {"real", "codec", "completed", "generated", "shuffled"}


@pytest.fixture(scope="module")
def settings(tiny_config: config.Config, tiny_tokens: str, tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    folder = tmp_path_factory.mktemp("evaluate")
    changes = {
        "bundle": shared_bundle(tmp_path_factory),
        "out": str(folder / "evaluation"),
        "clips": 2,
        "shown": 1,
        "free_form": 3,
        "batch": 8,
        "long_minutes": [0.1],
        "long_pieces": 2,
    }
    values = tiny_config.model_dump()
    return config.from_dict({**values, "evaluate": {**values["evaluate"], **changes}})


@pytest.fixture(scope="module")
def content(settings: config.Config) -> dict[str, Any]:
    return evaluate(settings)


def test_every_figure_is_there(settings: config.Config, content: dict[str, Any]) -> None:
    assert storage.read_json(storage.join(settings.evaluate.out, "evaluation.json")) == content
    assert content["clips_compared"] == 2
    for name in ("genre", "lead", "drums", "tempo", "key", "tempo_strict", "key_rank"):
        assert set(content["adherence"][name]) == SETS
    assert 0 <= content["adherence"]["free_form"]["genre"] <= 1
    frechet = content["stage2"]["frechet"]
    assert set(frechet) == {"real", "coarse_only", "generated"}
    assert all(np.isfinite(value) and value > 0 for value in frechet.values())
    assert 0 < content["codec"]["logmel_l1"] < 8
    assert content["generation"]["times_real_time"] > 0


def test_figures_stand_with_number_reference_and_interval(content: dict[str, Any]) -> None:
    systems = content["systems"]
    assert set(systems) == SETS | {"coarse"}
    for name, system in systems.items():
        assert system["n"] == 2
        for key, figure in system["figures"].items():
            assert figure["n"] == 2, (name, key)
            assert figure["low"] <= figure["value"] <= figure["high"], (name, key)
    genre, distance = (systems["generated"]["figures"][name] for name in ("genre", "frechet_logmel"))
    assert round(genre["value"], 4) == content["adherence"]["genre"]["generated"]
    assert (distance["reference"], distance["n_reference"]) == ("training segments", 6)
    assert systems["codec"]["figures"]["logmel_l1"]["reference"] == "the recordings"


def test_a_card_gets_each_figure_beside_its_ceilings(content: dict[str, Any]) -> None:
    figures = card_figures(content)
    (genre,) = (name for name in figures if name.startswith("genre, 2 clips (real "))
    assert figures[genre] == content["adherence"]["genre"]["generated"]
    assert f"shuffled prompts {content['adherence']['genre']['shuffled']:.2f}" in genre
    assert figures["genre, 3 free-form prompts"] == content["adherence"]["free_form"]["genre"]
    with pytest.raises(UserError, match=r"no evaluation\.json"):
        card_figures({"adherence": {}})


def test_a_single_stage_is_measured_through_its_codebooks(
    settings: config.Config, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = settings.model_dump()
    values["evaluate"] |= {"bundle": shared_single_stage(tmp_path_factory), "out": str(tmp_path), "long_minutes": []}
    content = evaluate(config.from_dict(values))
    assert "stage2" not in content
    assert content["single_stage"]["codebooks"] == 3
    frechet = content["single_stage"]["frechet"]
    assert frechet["generated"] != frechet["coarse_only"]  # its true codes, two codebooks more
    assert any(name.startswith("codebooks 0 to 2, Fréchet distance") for name in card_figures(content))


def test_controls_are_asked_for_and_stand_between_floor_and_ceiling(
    settings: config.Config, content: dict[str, Any], tmp_path: Path
) -> None:
    assert "controls" not in content  # of a bundle that takes none
    bundle = write_tiny_bundle(str(tmp_path), controls=widths_of(["drums", "density", "scale"]))
    values = settings.model_dump()
    values["evaluate"] |= {"bundle": bundle, "out": str(tmp_path / "out"), "long_minutes": []}
    found = evaluate(config.from_dict(values))
    rows = found.pop("controls")
    assert "asked_density" in rows
    assert set(rows) <= {"asked_drums", "asked_density", "asked_key"}
    for row in rows.values():
        assert set(row) <= {"real", "completed", "asked", "another's"}
        assert all(-1 <= figure["value"] <= 1 for figure in row.values() if figure["value"] is not None)
    real = rows["asked_density"]["real"]
    assert real["value"] is None or real["value"] > 0.99  # a recording has the density that was heard in it
    assert set(found) == set(content) - {"long"}


def test_long_pieces_are_measured_by_the_minute(settings: config.Config, content: dict[str, Any]) -> None:
    beginning, mark = content["long"]["drift"]
    assert (beginning["minute"], beginning["segments"]) == (0, 2)  # the first segment of each of two pieces
    assert (mark["minute"], mark["segments"]) == (0.1, 4)
    assert beginning["genre_kept"] == 1
    for row in (beginning, mark):
        assert all(0 <= row[name] <= 1 for name in ("genre", "lead", "drums", "tempo", "key", "genre_kept", "music"))
    for piece in content["long"]["pieces"]:
        assert audio.read(piece["path"]).seconds == 6
        assert piece["times_real_time"] > 0


def test_a_mark_within_the_first_segment_is_refused(settings: config.Config) -> None:
    values = settings.model_dump()
    values["evaluate"]["long_minutes"] = [0.01]
    with pytest.raises(UserError, match=r"evaluate.long_minutes=\[0.01\] has a mark before"):
        evaluate(config.from_dict(values))


def test_clips_are_files_of_the_asked_length(settings: config.Config, content: dict[str, Any]) -> None:
    kinds = [clip["kind"] for clip in content["clips"]]
    assert kinds == ["shown", "held-out", "free-form", "free-form", "free-form"]
    assert [clip["asked"]["genre"] for clip in content["clips"][2:]] == ["rock", "jazz", "country"]
    for clip in content["clips"]:
        sound = audio.read(clip["path"])
        assert sound.seconds == clip["seconds"] == settings.corpus.segment_seconds
        assert np.abs(sound.samples).max() == pytest.approx(clip["peak"], abs=1e-3)
        metadata = audio.read_metadata(clip["path"])
        assert metadata["ai_generated"] is True
        assert metadata["prompt"] == clip["prompt"]
        assert clip["rtf"] > 0
    assert audio.read(content["clips"][0]["real"]).seconds == settings.corpus.segment_seconds


def test_held_out_prompts_are_the_first_captions_of_their_pieces(
    settings: config.Config, content: dict[str, Any]
) -> None:
    tracks = storage.read_text(storage.join(settings.corpus.source, "manifest.jsonl"))
    for clip in content["clips"][:2]:
        assert f'["{clip["prompt"]}"' in tracks
        assert clip["asked"]["genre"] in tracks


def test_the_same_command_evaluates_a_folder_of_audio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for i in range(2):
        wav = np.sin(2 * np.pi * 220 * (i + 1) * np.arange(24_000) / 24_000)[None].astype(np.float32) / 2
        audio.write(f"{tmp_path}/recorded/{i}.wav", Audio(wav, 24_000))
    overrides = [f"evaluate.audio={tmp_path}/recorded", f"evaluate.out={tmp_path}/out", "evaluate.draws=5"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--preset", "tiny", *overrides])
    job.main()
    assert "| Without weights | recorded |" in capsys.readouterr().out
    assert storage.list_names(f"{tmp_path}/out") == ["comparison.html", "comparison.json", "comparison.md"]
