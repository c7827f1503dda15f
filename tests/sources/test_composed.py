"""The corpus that the composer's pieces become."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmttm.composer.fonts import find_soundfonts
from ssmttm.composer.genres import GENRES
from ssmttm.composer.pieces import attributes_of
from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources import composed
from ssmttm.sources.readers import read_source

TAGS = ("genre", "lead", "mood", "key", "mode", "bpm", "meter", "drums", "soundfont", "seed")
CONTROLS = {"beat", "chord", "scale", "drums", "bass", "melody"}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    hours = 18 * 2 / 3600
    composed.compose_corpus(str(tmp_path / "one"), hours, 5, clip_seconds=2.0, workers=1, progress=False)
    composed.compose_corpus(str(tmp_path / "two"), hours, 5, clip_seconds=2.0, workers=2, progress=False)
    composed.compose_corpus(str(tmp_path / "other"), hours, 6, clip_seconds=2.0, workers=1, progress=False)
    one, two, other = (_files(tmp_path / name) for name in ("one", "two", "other"))
    assert len(one) == 18 + 2
    assert one == two
    assert not set(one.values()) & set(other.values())


def test_corpus_folder(tmp_path: Path) -> None:
    tracks = composed.compose_corpus(str(tmp_path), 40 * 1.5 / 3600, 0, 1.5, 3, workers=1, progress=False)
    read = read_source(str(tmp_path), CorpusConfig())
    assert [track.id for track in read] == [track.id for track in tracks]
    assert len(read) == 40
    assert sum(track.split == "val" for track in read) == 2
    for track in read:
        info = soundfile.info(track.audio)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (24_000, 1, "PCM_16", 36_000)
        assert track.audio.startswith(str(tmp_path / "audio" / "00"))
        assert track.audio.endswith(f"{track.id}.flac")
        assert len(track.captions) == 3
        assert track.duration_s == 1.5
        assert (track.licence, track.artist) == ("CC0-1.0", "ssmttm composer")
        assert set(track.tags) == set(TAGS)
        assert set(track.score) == CONTROLS
        samples = soundfile.read(track.audio)[0]
        assert 0.05 < np.abs(samples).max() < 1.0
        assert np.sqrt(np.mean(samples**2)) > 0.01
    notice = (tmp_path / "README.md").read_text()
    assert find_soundfonts()[0].licence in notice
    assert "CC0-1.0" in notice


def test_whole_pieces(tmp_path: Path) -> None:
    """Without a length of clips; as many as make the hours."""
    tracks = composed.compose_corpus(str(tmp_path), 90 / 3600, 4, captions_per_track=1, workers=1, progress=False)
    assert len(tracks) == 2
    for track in read_source(str(tmp_path), CorpusConfig()):
        assert 30 <= track.duration_s <= 60
        assert soundfile.info(track.audio).frames == round(track.duration_s * 24_000)
        assert track.score["beat"]["bpm"] == track.tags["bpm"]
    hours = sum(track.duration_s for track in tracks) / 3600
    assert f"2 pieces, {hours:.2f} hours" in (tmp_path / "README.md").read_text()


def test_each_piece_is_played_through_one_of_the_fonts_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font = find_soundfonts()[-1].path
    for name in ("FluidR3_GM.sf2", "TimGM6mb.sf2", "Unheard.sf2"):
        shutil.copy(font, tmp_path / name)
    monkeypatch.setenv("SSMTTM_SOUNDFONT", str(tmp_path))
    fonts = find_soundfonts()
    drawn = [composed.soundfont_of(1, index, fonts).name for index in range(300)]
    assert min(Counter(drawn).values()) > 70
    out = tmp_path / "corpus"
    tracks = composed.compose_corpus(str(out), 4 / 3600, 1, 1.0, 1, workers=1, progress=False)
    assert [track.tags["soundfont"] for track in tracks] == drawn[:4]
    notice = (out / "README.md").read_text()
    assert {font.name for font in fonts if font.licence in notice} == set(drawn[:4])


def test_interrupted_composition_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composed.compose_corpus(str(tmp_path), 4 / 3600, 0, 1.0, workers=1, progress=False)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(composed, "compose_piece", fail)
    with pytest.raises(KeyboardInterrupt):
        composed.compose_corpus(str(tmp_path), 4 / 3600, 1, 1.0, workers=1, progress=False)
    assert not (tmp_path / "manifest.jsonl").exists()


@pytest.mark.parametrize(
    ("hours", "seconds", "captions", "workers"), [(0, 10, 6, 1), (1, 0, 6, 1), (1, 10, 0, 1), (1, 10, 6, 0)]
)
def test_impossible_requests(tmp_path: Path, hours: float, seconds: float, captions: int, workers: int) -> None:
    with pytest.raises(UserError):
        composed.compose_corpus(str(tmp_path), hours, 0, seconds, captions, workers, progress=False)


def test_seven_hours_have_enough_validation_pieces_of_every_genre() -> None:
    chosen = composed._validation_indices(0, 2520)
    assert len(chosen) >= 128
    counts = Counter(attributes_of(0, index).genre for index in chosen)
    assert len(counts) == len(GENRES)
    assert min(counts.values()) >= 16


def test_titles_and_manifest_are_plain_json(tmp_path: Path) -> None:
    composed.compose_corpus(str(tmp_path), 2 / 3600, 9, 1.0, 2, workers=1, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["s9-000000", "s9-000001"]
    assert {row["split"] for row in rows} == {"train", "val"}
