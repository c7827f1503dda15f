"""Odd audio files: each is used, or named with the right reason, and all who read audio agree on it."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import odd_audio
import pytest
from odd_audio import SEGMENT_SECONDS, Verdict

from serve.uploads import read_upload
from ssmttm import audio, config, storage
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import UserError
from ssmttm.opener import open_audio, open_stream
from ssmttm.sources.manifest import read_rejects
from ssmttm.tokens import check
from ssmttm.tokens.check import census, read_inventory, write_scan
from ssmttm.tokens.schema import open_dataset, read_columns, shards_of
from ssmttm.tokens.write import preprocess_local
from ssmttm.training.clips import ClipReader

SLACK_S = 0.15  # what codecs add at either end
Refused = dict[str, set[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def verdicts(folder: Path) -> dict[str, Verdict]:
    return odd_audio.write_all(folder)


@pytest.fixture(scope="module")
def settings(tiny_config: config.Config, tiny_codec: object, folder: Path) -> config.Config:
    values = tiny_config.model_dump()
    values["corpus"] |= {"source": str(folder), "out": f"{folder}-tokens", "default_licence": "own-work"}
    values["corpus"] |= {"segment_seconds": SEGMENT_SECONDS, "minimum_seconds": 0.5, "format": "folder"}
    return config.from_dict(values)


def opened(data: io.BytesIO | str) -> tuple[str, float]:
    """Reason or nothing, and seconds that decode."""
    try:
        with open_stream(data) if isinstance(data, io.BytesIO) else open_audio(data) as source:
            if source.is_cut:
                return "", source.seconds
            return "", sum(len(block_NC) for block_NC in source.read(0, source.frames)) / source.sample_rate
    except UnusableAudioError as refused:
        return refused.reason, 0.0


def test_by_path_as_a_stream_and_from_an_object_store_the_verdict_is_the_same(
    folder: Path, verdicts: dict[str, Verdict]
) -> None:
    assert len(verdicts) >= 120
    for name, verdict in verdicts.items():
        data = (folder / name).read_bytes()
        reason, seconds = opened(io.BytesIO(data))
        assert ({reason} == verdict.reasons) is not verdict.opens, (name, reason)
        if verdict.opens and not verdict.reasons:
            assert seconds == pytest.approx(verdict.used, abs=SLACK_S), name
        assert opened(str(folder / name)) == (reason, seconds), name
        storage.write_bytes(f"memory://odd/{name}", data)
        assert opened(f"memory://odd/{name}") == (reason, seconds), name


def test_claims_of_the_length_that_are_not_so_are_said(folder: Path, verdicts: dict[str, Verdict]) -> None:
    for name, verdict in verdicts.items():
        if verdict.opens:
            with open_audio(str(folder / name)) as source:
                assert bool(source.claim) == verdict.claim, (name, source.claim)


@pytest.mark.slow
def test_an_upload_has_the_verdict_of_the_opener(folder: Path, verdicts: dict[str, Verdict]) -> None:
    for name, verdict in verdicts.items():
        data = io.BytesIO((folder / name).read_bytes())
        if not verdict.opens:
            with pytest.raises(UserError, match=next(iter(verdict.reasons))):
                read_upload(data, 24_000, 60)
        elif not verdict.reasons:
            assert read_upload(data, 24_000, 60).seconds == pytest.approx(verdict.used, abs=SLACK_S), name


def by_name(rejects: list, folder: Path) -> Refused:
    found: Refused = defaultdict(set)
    for reject in rejects:
        found[reject.audio.removeprefix(f"{folder}/")].add(reject.reason)
    return dict(found)


def expected(verdicts: dict[str, Verdict]) -> Refused:
    return {name: set(verdict.reasons) for name, verdict in verdicts.items() if verdict.reasons}


@pytest.fixture(scope="module")
def scanned(settings: config.Config, verdicts: dict[str, Verdict]) -> Refused:
    """What a scan refuses, and a check after it."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "FIRST_NAMES", 10_000)
        for inventory in (
            read_inventory(settings.corpus.source, settings.corpus, progress=False),
            write_scan(settings.corpus.source, None, settings.corpus, progress=False)[0],
        ):
            ids = {entry.track.id: Path(entry.track.audio).name for entry in inventory.entries}
            refused: Refused = defaultdict(set)
            for reason, group in census(inventory, sample=10_000, progress=False)["rejects_by_reason"].items():
                for one in group["first"]:
                    refused[ids.get(one) or ids[one.rpartition("-")[0]]].add(reason)
            found.append(dict(refused))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.slow
def test_scan_and_check_name_all_that_preprocessing_refuses(scanned: Refused, verdicts: dict[str, Verdict]) -> None:
    assert scanned == expected(verdicts)


@pytest.mark.slow
def test_the_codec_refuses_the_same(settings: config.Config, verdicts: dict[str, Verdict]) -> None:
    reader = ClipReader(settings)
    used: dict[str, float] = {}
    list(reader.read(reader.tracks, used))
    refused = by_name(reader.rejects, Path(settings.corpus.source))
    for name, verdict in verdicts.items():
        if verdict.used == 0 or not verdict.reasons:  # of others it depends on the place that is drawn
            assert refused.get(name, set()) == verdict.reasons, name
        else:
            assert refused.get(name, set()) <= verdict.reasons, name
    assert len(used) + len({reject.audio for reject in reader.rejects}) == len(verdicts)


@pytest.mark.slow
def test_preprocessing_uses_or_names_every_file_and_every_second(
    settings: config.Config, verdicts: dict[str, Verdict], capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = preprocess_local(settings).dataset
    rejects = read_rejects(settings.corpus.out)
    assert by_name(rejects, Path(settings.corpus.source)) == expected(verdicts)
    seconds: dict[str, float] = defaultdict(float)
    for shard in shards_of(open_dataset(settings.corpus.out)):
        for row in read_columns(shard.uri, ["audio", "duration_s"]).to_pylist():
            seconds[row["audio"]] += row["duration_s"]
    for name, verdict in verdicts.items():
        slack = SLACK_S + (settings.corpus.minimum_seconds if not verdict.reasons else 0)  # a last bit is left out
        assert seconds.get(name, 0.0) == pytest.approx(verdict.used, abs=slack), name
    lost = sum(reject.seconds for reject in rejects)
    assert dataset["seconds_planned"] == pytest.approx(sum(seconds.values()) + lost, abs=0.1 * len(verdicts))
    assert dataset["segments_planned"] == dataset["rows"] + sum(reject.segments for reject in rejects)
    out, err = capfd.readouterr()
    said = {line.split(":")[0] for line in out.splitlines()}
    claims = {name.rpartition(".")[0] for name, verdict in verdicts.items() if verdict.claim and verdict.used}
    assert {one.rpartition(".")[0] or one for one in said} >= claims or said >= claims
    assert "Warning" not in err  # of libraries below
    assert "resync" not in err


def test_what_is_not_read_but_looks_like_sound_is_named(tmp_path: Path) -> None:
    from ssmttm.config import CorpusConfig
    from ssmttm.sources.readers import scan_source

    (tmp_path / "good.wav").write_bytes(odd_audio.wav())
    (tmp_path / "good.txt").write_text("calm")
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "notes").write_text("notes")
    for name in ("film.mov", "song.ape", "song.MID", "song.aax"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "unnamed").write_bytes(odd_audio.sound("FLAC"))
    (tmp_path / "song.mp3.part").write_bytes(odd_audio.mp3())
    tracks, rejects = scan_source(str(tmp_path), CorpusConfig())
    assert [track.id for track in tracks] == ["good"]
    assert {(one.id, one.reason) for one in rejects} == {
        (name, "not-audio") for name in ("film.mov", "song.ape", "song.MID", "song.aax", "unnamed", "song.mp3.part")
    }


def test_tags_are_read_whatever_the_container(tmp_path: Path) -> None:
    from ssmttm.opener import read_tags

    samples = audio.Audio(odd_audio.music().T, odd_audio.RATE)
    for name in ("a.flac", "a.ogg", "a.mp3", "a.wav"):
        audio.write(str(tmp_path / name), samples, {"prompt": "calm piano"})
        assert read_tags(str(tmp_path / name))["title"] == "calm piano", name
    (tmp_path / "b.mp3").write_bytes(odd_audio.ape() + (tmp_path / "a.mp3").read_bytes())
    assert read_tags(str(tmp_path / "b.mp3"))["title"] == "calm piano"
    assert read_tags(str(tmp_path / "absent.mp3")) == {}
