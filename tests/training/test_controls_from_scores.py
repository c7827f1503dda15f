"""All controls together, from a manifest's scores through token shards into batches and both models' input layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssmttm import audio, config
from ssmttm.codec.base import Codec
from ssmttm.conditions.base import ControlConditioner, FrameControl
from ssmttm.conditions.registry import CONDITIONERS, control_of
from ssmttm.config import Config
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.model.lm import MusicLM
from ssmttm.sources.manifest import Track, write_manifest
from ssmttm.sources.readers import read_source
from ssmttm.tokens.check import census, read_inventory
from ssmttm.tokens.plan import plan_dataset
from ssmttm.tokens.read import TokenDataset
from ssmttm.tokens.write import PartWriter, preprocess_local
from ssmttm.training.order import Draw
from ssmttm.training.stage1 import Stage1Task
from ssmttm.training.stage2 import Stage2Task

NAMES = tuple(name for name in CONDITIONERS if name != "text")
SCORE: dict[str, Any] = {
    "beat": [[0.1, {"bpm": 96.5, "meter": 3}], [5.2, {"bpm": 141.0, "meter": "6/8"}]],
    "chord": [[0, "Am7/G"], [1.5, "F"], [4.1, "N"], [6.2, "C"]],
    "scale": [[0, "A minor"], [4, "C major/A minor"]],
    "drums": [[0, False], [3.3, True]],
    "bass": True,
    "density": [[0, 0.2], [2.2, 0.9]],
    "brightness": 0.4,
    "melody": [[0.2, 0.5, 69], [0.8, 0.5, 72], [3.5, 3.0, 64], [8.0, 1.0, 76]],
}
SECONDS = 9.0  # three segments


@pytest.fixture(scope="module")
def scored(
    tiny_config: Config, tiny_codec: Codec, tiny_corpus: str, tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """Token shards of two tracks with a score and of two without, one of each held out."""
    folder = tmp_path_factory.mktemp("scored")
    sounds = [audio.read(track.audio).samples for track in read_source(tiny_corpus, tiny_config.corpus)]
    tracks = []
    for number in range(4):
        sound = np.concatenate([sounds[(number + part) % len(sounds)] for part in range(3)], axis=1)
        audio.write(f"{folder}/in/{number}.wav", audio.Audio(sound, tiny_codec.sample_rate))
        split, score = "train" if number < 2 else "val", SCORE if number % 2 == 0 else {}
        track = Track(
            f"{number}", f"{number}.wav", ("music",), split, "CC0-1.0", f"{number}", "", "", SECONDS, {}, score
        )  # type: ignore[arg-type]
        tracks.append(track)
    write_manifest(f"{folder}/in", tracks)
    changes = {
        "corpus": {"source": f"{folder}/in", "out": f"{folder}/out", "controls": list(NAMES), "duplicates": "keep"}
    }
    changes |= {"train": {"data": f"{folder}/out"}}
    values = tiny_config.model_dump()
    settings = config.from_dict({**values, **{name: {**values[name], **some} for name, some in changes.items()}})
    preprocess_local(settings)
    return settings


def with_stage(settings: Config, stage: str, **changes: Any) -> Config:
    values = settings.model_dump()
    return config.from_dict({**values, stage: {**values[stage], **changes}})


@pytest.mark.parametrize("name", NAMES)
def test_shards_hold_what_the_score_says_from_where_the_segment_begins(scored: Config, name: str) -> None:
    """Each row is what a request for the whole track would ask for there; nothing is known of a track without."""
    data, control = TokenDataset.open(scored.train.data, "train", with_fine=False), control_of(name)
    rate = data.frames(0) / 3.0
    whole_CT = control.encode(SCORE[name], round(SECONDS * rate), rate)
    for row, told in enumerate(data.rows):
        found_CT = data.control(row, name)
        start = round(told["start_s"] * rate)
        if told["source_id"] == "0":
            wanted_CT = whole_CT[:, start : start + data.frames(row)]
            np.testing.assert_allclose(found_CT, wanted_CT, atol=1e-3, equal_nan=True)
    segments = [data.control(row, name) for row, told in enumerate(data.rows) if told["source_id"] == "0"]
    assert len(segments) == 3
    if isinstance(SCORE[name], list):
        assert not np.array_equal(segments[0], segments[1], equal_nan=True)


def test_card_and_census_say_how_much_is_known(scored: Config) -> None:
    figures = census(read_inventory(scored.corpus.out, scored.corpus, progress=False), sample=0, progress=False)
    known = figures["controls_known"]
    assert tuple(known) == NAMES
    assert known["chord"] >= 0.5  # of two tracks of four the score says it, of others the sound may
    card = Path(scored.corpus.out, "README.md").read_text()
    assert f"| chord | 37 | {known['chord']:.1%} |" in card
    corpus = census(read_inventory(scored.corpus.source, scored.corpus, progress=False), sample=0, progress=False)
    assert corpus["controls_known"] == dict.fromkeys(sorted(NAMES), 0.5)


def test_a_changed_score_is_another_dataset_only_where_it_is_used(scored: Config) -> None:
    writer = PartWriter(scored)

    def fingerprint(**corpus: Any) -> str:
        return plan_dataset(with_stage(scored, "corpus", **corpus), writer.codec, writer.encoder).fingerprint

    before = fingerprint(), fingerprint(controls=[]), fingerprint(controls=["drums"])
    tracks = [*read_source(scored.corpus.source, scored.corpus)]
    score = {**SCORE, "chord": "G"}
    other = f"{scored.corpus.source}/other"
    changed = [Track(**{**vars(track), "score": score if track.score else {}}) for track in tracks]
    write_manifest(f"{other}.jsonl", changed, scored.corpus.source)
    source = f"{other}.jsonl"
    after = (
        fingerprint(source=source),
        fingerprint(source=source, controls=[]),
        fingerprint(source=source, controls=["drums"]),
    )
    assert after[0] != before[0]
    assert after[1:] == before[1:]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_batches_hold_the_frames_that_were_cut_out(scored: Config, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop moves codes and controls together."""
    monkeypatch.setattr("ssmttm.training.stage_task.CONTROLS_DROPPED", 0.0)
    for name in NAMES:
        monkeypatch.setattr(CONDITIONERS[name], "dropout", 0.0)
    frames, task = 20, {"stage1": Stage1Task, "stage2": Stage2Task}[stage](with_stage(scored, stage, crop_frames=20))
    row, starts = 1, set()
    assert task.data.rows[row]["source_id"] == "0"
    whole = task.data.codes(row)[:1] if stage == "stage1" else task.data.fine(row).astype(np.float32)

    def controls(start: int) -> list[FrameControl]:
        return [FrameControl.of([task.data.control(row, name)[:, start : start + frames]]) for name in NAMES]

    def equal(one: FrameControl, other: FrameControl) -> bool:
        return torch.equal(one.values_BCT, other.values_BCT) and torch.equal(one.known_BT, other.known_BT)

    for epoch in range(6):
        batch = task.collate([Draw(row, epoch)])
        content = (batch.delayed_BKS[0] if stage == "stage1" else batch.fine_BDT[0]).numpy()
        places = [t for t in range(whole.shape[1] - frames + 1) if np.array_equal(content, whole[:, t : t + frames])]
        # Codes may repeat themselves; what is asked by is that of one of the places where they stand.
        told = [t for t in places if all(map(equal, controls(t), (batch.conditions[name] for name in NAMES)))]
        assert len(told) == 1
        starts.add(told[0])
    assert len(starts) > 1


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_both_models_hear_each_of_them(scored: Config, name: str) -> None:
    """Once its input layer is no longer zero, what a model says depends on the control, and only where it is known."""
    torch.manual_seed(0)
    stage1, stage2 = Stage1Task(scored), Stage2Task(scored)
    lm, completer = stage1.build().eval(), stage2.build().eval()
    assert isinstance(lm, MusicLM)
    assert isinstance(completer, LatentCompleter)
    batch = stage1.collate_validation([0], "own")
    assert batch.conditions[name].known_BT.any()
    without = batch.conditions.as_null([name])
    frames = batch.conditions[name].known_BT.shape[1]
    for model in (lm, completer.denoiser):
        inputs = model.inputs
        assert not inputs.by_frame(inputs.pack(batch.conditions, frames)).any()  # nothing is heard at the beginning
        torch.nn.init.normal_(inputs[name].proj.weight)
        added_BTD = inputs.by_frame(inputs.pack(batch.conditions, frames))
        known_BT = batch.conditions[name].known_BT
        assert (added_BTD.abs().sum(-1) > 0).equal(known_BT)
        assert not inputs.by_frame(inputs.pack(without, frames)).any()
    assert not torch.allclose(lm(batch.delayed_BKS, batch.conditions), lm(batch.delayed_BKS, without))


def test_text_is_dropped_more_often_where_controls_are_learned(scored: Config, tiny_tokens: str) -> None:
    settings = with_stage(scored, "stage1", null_probability=0.0, controls_alone=0.4)

    def nulls(settings: Config, row: int) -> int:
        task = Stage1Task(settings)
        batches = [task.collate([Draw(row, epoch)]) for epoch in range(150)]
        return sum(bool(batch.conditions["text"].null_B[0]) for batch in batches)

    assert 35 <= nulls(settings, 0) <= 75  # .4 of the samples that have controls
    assert nulls(with_stage(settings, "stage1", controls_alone=0.0), 0) == 0
    plain = with_stage(settings, "train", data=tiny_tokens)
    assert nulls(plain, 0) == 0  # data without controls are learned from as before


def test_conditioners_are_what_shards_and_requests_share() -> None:
    """All of them, and each has a form that can be told."""
    assert NAMES == ("beat", "chord", "scale", "drums", "bass", "density", "brightness", "melody")
    for name in NAMES:
        control: Any = control_of(name)
        assert isinstance(control, ControlConditioner)
        assert control.form
