"""One comparison in process: a bundle, a MusicGen checkpoint and a folder of audio, with CLAP and AST, all random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import shared_bundle
from tiny_checkpoints import write_ast, write_clap, write_musicgen

from ssmttm import audio, config, storage
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.evaluation import evaluate
from ssmttm.evaluation.evaluate import compare
from ssmttm.evaluation.figures import TITLES, WITH_WEIGHTS
from ssmttm.evaluation.prompts import held_out_tracks
from ssmttm.evaluation.systems import kind_of
from ssmttm.reports import comparison

PROMPTS = {"a": "slow piano", "b": "loud drums , flute"}


def write_folder(folder: Path, seed: int) -> str:
    random = np.random.default_rng(seed)
    for name in PROMPTS:
        notes = np.repeat(random.uniform(100, 2000, 8), 3000)
        wav = 0.4 * np.sin(2 * np.pi * np.cumsum(notes) / 24_000)
        audio.write(str(folder / f"{name}.wav"), Audio(wav[None].astype(np.float32), 24_000))
    return str(folder)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    folder = tmp_path_factory.mktemp("comparison")
    for name in ("recorded", "real", "embeddings"):
        (folder / name).mkdir()
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"id": i, "prompt": p}) for i, p in PROMPTS.items()))
    for name in ("reference", "recorded"):
        np.save(folder / "embeddings" / f"{name}.npy", np.random.default_rng(len(name)).normal(size=(6, 3)))
    options = {
        "systems.ours": shared_bundle(tmp_path_factory),
        "systems.peer": write_musicgen(folder / "musicgen"),
        "systems.recorded": write_folder(folder / "recorded", 1),
        "reference": write_folder(folder / "real", 2),
        "clap": write_clap(folder / "clap"),
        "tagger": write_ast(folder / "ast"),
        "embeddings": str(folder / "embeddings"),
        "prompts": str(folder / "prompts.jsonl"),
        "out": str(folder / "out"),
        "seconds": 1.0,
        "draws": 5,
        "seed": 4,
    }
    return config.load("tiny", [f"evaluate.{name}={value}" for name, value in options.items()], "evaluate")


@pytest.fixture(scope="module")
def content(settings: config.Config) -> dict[str, Any]:
    content = compare(settings)
    comparison.write(content, settings.evaluate.out)
    return content


def test_three_kinds_of_systems_stand_in_one_table(settings: config.Config, content: dict[str, Any]) -> None:
    systems = content["systems"]
    assert [one["kind"] for one in systems.values()] == ["bundle", "MusicGen", "folder of audio"]
    assert all(list(one["figures"]) == list(TITLES) for one in systems.values())
    for name in ("clap_score", "frechet_clap", "kad_clap", "kl_ast", "frechet_logmel", "kad_logmel", "loudness"):
        for one in systems.values():
            assert np.isfinite(one["figures"][name]["value"]), name
    assert systems["ours"]["figures"]["times_real_time"]["value"] > 0
    assert systems["peer"]["figures"]["times_real_time"]["value"] > 0
    assert systems["recorded"]["figures"]["times_real_time"]["reason"] == "clips that were not made here"
    assert systems["recorded"]["figures"]["frechet_given"]["value"] > 0
    assert systems["ours"]["figures"]["frechet_given"]["value"] is None
    assert storage.read_json(storage.join(settings.evaluate.out, "comparison.json")) == content


def test_clips_are_kept_with_their_prompts_and_seeds(settings: config.Config, content: dict[str, Any]) -> None:
    for name in ("ours", "peer"):
        folder = storage.join(settings.evaluate.out, name)
        listed = storage.read_json(storage.join(folder, "clips.json"))["clips"]
        assert [(one["id"], one["prompt"], one["seed"]) for one in listed] == [
            ("a", PROMPTS["a"], 4),
            ("b", PROMPTS["b"], 5),
        ]
        clip = storage.join(folder, listed[1]["audio"])
        assert audio.read(clip).seconds == pytest.approx(1.0, abs=0.01)
        assert audio.read_metadata(clip)["ai_generated"] is True


def test_a_folder_made_by_a_comparison_gives_the_same_figures(settings: config.Config, content: dict[str, Any]) -> None:
    out = settings.evaluate.out
    again = config.from_dict(
        {
            **settings.model_dump(),
            "evaluate": {
                **settings.evaluate.model_dump(),
                "systems": {},
                "audio": storage.join(out, "peer"),
                "out": storage.join(out, "again"),
            },
        }
    )
    first, second = content["systems"]["peer"]["figures"], compare(again)["systems"]["peer"]["figures"]
    assert first == second


def test_pages_show_every_figure_and_no_outside(settings: config.Config, content: dict[str, Any]) -> None:
    markdown, html = (
        storage.read_text(storage.join(settings.evaluate.out, f"comparison.{end}")) for end in ("md", "html")
    )
    for title in TITLES.values():
        assert title in markdown
    assert "not available" in markdown
    assert "http" not in html
    assert html.count("<table>") == 2
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert [line.count("|") for line in lines].count(5) == len(WITH_WEIGHTS) + 2
    assert {line.count("|") for line in lines} == {5, 6}  # the reference's own figures stand in the second table
    assert len(lines) == len(TITLES) + 4


def test_without_weights_nothing_is_made_up(settings: config.Config, tmp_path: Path) -> None:
    """Held-out prompts are not at hand either: the folder alone, without reference."""
    folder = settings.evaluate.systems["recorded"]
    plain = config.load("tiny", [f"evaluate.audio={folder}", f"evaluate.out={tmp_path}", "evaluate.draws=5"])
    content = compare(plain)
    comparison.write(content, str(tmp_path))
    figures = content["systems"]["recorded"]["figures"]
    for name in (*WITH_WEIGHTS, "frechet_logmel", "kad_logmel", "nearest_training"):
        assert figures[name]["value"] is None
        assert figures[name]["reason"]
    assert "no CLAP weights (evaluate.clap)" in storage.read_text(f"{tmp_path}/comparison.md")


def test_held_out_prompts_are_paired_with_their_tracks(
    tiny_config: config.Config, tiny_corpus: str, tiny_tokens: str, tmp_path: Path
) -> None:
    prompts = held_out_tracks(tiny_config)
    assert len(prompts) == 2
    folder = tmp_path / "copies"
    folder.mkdir()
    for prompt in prompts:
        assert prompt.recording is not None
        audio.write(str(folder / f"{prompt.id}.wav"), audio.read(prompt.recording.audio))
    changes = {"audio": str(folder), "out": str(tmp_path), "prompts": "held-out", "training": tiny_corpus, "draws": 5}
    changes |= {"training_codes": tiny_tokens}
    values = tiny_config.model_dump()
    settings = config.from_dict({**values, "evaluate": {**values["evaluate"], **changes, "seconds": 3.0}})
    content = compare(settings)
    figures = content["systems"]["copies"]["figures"]
    assert (content["reference"]["name"], content["reference"]["n"]) == ("validation tracks of the corpus", 2)
    own = content["reference"]["figures"]
    for name in ("centroid", "nearest_training", "known_runs"):
        assert own[name]["value"] == pytest.approx(figures[name]["value"], rel=1e-3), name
    assert figures["frechet_logmel"]["value"] == pytest.approx(0, abs=0.5)
    assert figures["nearest_training"]["value"] > 0
    assert figures["known_runs"]["n_reference"] == 6  # of the eight tiny clips two are held out
    assert figures["known_runs"]["value"] < 0.5
    for clip in storage.read_text(f"{tiny_corpus}/manifest.jsonl").splitlines():
        track = json.loads(clip)
        if track["split"] == "train":
            own = evaluate.coder_of(tiny_tokens, "cpu")(audio.read(f"{tiny_corpus}/{track['audio']}"))
            assert evaluate.training_runs(tiny_tokens).share_known(own) > 0.9
            break


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing to compare"),
        (["evaluate.systems.reference=x"], "'reference' cannot name a system"),
        (["evaluate.systems.x=no/such/place"], "no/such/place is empty or missing"),
        (["evaluate.systems.a=x", "evaluate.audio=y/a"], "share a name"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(config.load("tiny", overrides))


def test_checkpoints_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint of 'clap'"):
        kind_of(write_clap(tmp_path))
