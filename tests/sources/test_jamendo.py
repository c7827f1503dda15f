"""MTG-Jamendo in its published layout, on a few rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.licences import normalise
from ssmttm.sources.jamendo import Credit, parse_credits
from ssmttm.sources.readers import read_source, scan_source

CORPUS = CorpusConfig()
HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
ROWS = [
    "track_0000948\tartist_000087\talbum_000149\t48/948.mp3\t212.7\tgenre---rock\tinstrument---electricguitar\t"
    "mood/theme---happy\tgenre---pop",
    "track_0001032\tartist_000087\talbum_000155\t32/1032.mp3\t30.0\tgenre---ambient",
    "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock",
]
LICENCES = """48/948.mp3
Day by Day by The Band from Jamendo: http://www.jamendo.com/track/948
Available under a Creative Commons Attribution license: http://creativecommons.org/licenses/by/3.0/
{0}
32/1032.mp3
Ice from Jamendo
Available under a Creative Commons Attribution-Non-Commercial-Share-Alike license: http://creativecommons.org/licenses/by-nc-sa/2.5/es/
{0}
14/214.mp3
Intro by David from Jamendo: http://www.jamendo.com/track/214
Available under a Free Art license: http://artlibre.org/licence/lal
{0}
"""


def write(root: Path, rows: list[str] = ROWS, separator: str = "", data: str = "data") -> Path:
    (root / data).mkdir(parents=True, exist_ok=True)
    (root / data / "raw_30s_cleantags.tsv").write_text("\n".join([HEADER, *rows]) + "\n")
    (root / "audio_licenses.txt").write_text(LICENCES.format(separator))
    return root


def write_split(folder: Path, prefix: str = "autotagging-", **parts: str) -> None:
    folder.mkdir(parents=True)
    for part, row in parts.items():
        (folder / f"{prefix}{part}.tsv").write_text(f"{HEADER}\n{row}\n")


@pytest.mark.parametrize("separator", ["", "--"])
@pytest.mark.parametrize("data", ["data", "."])
def test_published_layout_is_recognised_and_read(tmp_path: Path, separator: str, data: str) -> None:
    tracks = {track.id: track for track in read_source(str(write(tmp_path, separator=separator, data=data)), CORPUS)}
    assert list(tracks) == ["track_0000948", "track_0001032", "track_0000214"]
    first = tracks["track_0000948"]
    assert first.audio == str(tmp_path / "48/948.mp3")  # not there: told in preprocessing
    assert (first.artist, first.title, first.duration_s) == ("The Band", "Day by Day", 212.7)
    assert first.source_url == "https://www.jamendo.com/track/948"
    assert first.tags == {"genre": ["rock", "pop"], "instrument": ["electricguitar"], "mood": ["happy"]}
    assert len(first.captions) == CORPUS.tag_captions
    assert all("electricguitar" not in caption for caption in first.captions)
    families = [normalise(track.licence) for track in tracks.values()]
    assert families == ["CC-BY", "CC-BY-NC-SA", None]
    assert (tracks["track_0001032"].artist, tracks["track_0001032"].title) == ("", "")


def test_audio_is_found_at_any_depth_and_good_quality_first(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("audio/48/948.mp3", "audio-low/48/948.low.mp3", "audio-low/32/1032.low.mp3", "audio/14/9214.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    audio = [track.audio for track in read_source(str(tmp_path), CORPUS)]
    assert audio == [str(tmp_path / name) for name in ("audio/48/948.mp3", "audio-low/32/1032.low.mp3", "14/214.mp3")]


def test_names_come_from_the_meta_table(tmp_path: Path) -> None:
    write(tmp_path)
    header = "TRACK_ID\tARTIST_ID\tALBUM_ID\tTRACK_NAME\tARTIST_NAME\tALBUM_NAME\tRELEASEDATE\tURL"
    rows = [
        'track_0000948\tartist_000087\talbum_000149\tThe "Day\tBand\tAlbum\t2005-01-01\thttp://www.jamendo.com/track/948',
        "track_0001032\tartist_000087\talbum_000155\tIce\t\tBand\tAlbum\t2005-01-01\thttp://www.jamendo.com/track/1032",
    ]
    (tmp_path / "data/raw.meta.tsv").write_text("\n".join([header, *rows]) + "\n")
    names = [(track.title, track.artist) for track in read_source(str(tmp_path), CORPUS)]
    assert names == [('The "Day', "Band"), ("Ice", "Band"), ("Intro", "David")]


@pytest.mark.parametrize(("folder", "prefix"), [("data/splits/split-0", "autotagging-"), ("split-0", "")])
def test_published_split_is_respected(tmp_path: Path, folder: str, prefix: str) -> None:
    write(tmp_path)
    write_split(tmp_path / folder, prefix, train=ROWS[2], validation="", test=ROWS[0])
    splits = {track.id: track.split for track in read_source(str(tmp_path), CORPUS)}
    # 1032 is in no part: it follows its artist, whom the split tests on.
    assert splits == {"track_0000948": "val", "track_0001032": "val", "track_0000214": "train"}


def test_without_a_split_artists_are_held_out_whole(tmp_path: Path) -> None:
    rows = [
        f"track_{n:07d}\tartist_{n % 40:06d}\talbum_000001\t{n % 100:02d}/{n}.mp3\t60.0\tgenre---rock"
        for n in range(1, 200)
    ]
    tracks = read_source(str(write(tmp_path, rows)), CORPUS)
    splits: dict[int, set[str]] = {}
    for track in tracks:
        splits.setdefault(int(track.id.removeprefix("track_")) % 40, set()).add(track.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {"train"} in splits.values()
    assert {"val"} in splits.values()


@pytest.mark.parametrize(
    "bad",
    [
        "track_1",
        "948\tartist_1\talbum_1\t48/948.mp3\t1.0",
        "track_1\tartist_1\talbum_1\t../../etc/passwd\t1.0",
        "track_1\tartist_1\talbum_1\t01/1.mp3\tlong",
        "track_1\tartist_1\talbum_1\t01/1.mp3\tnan",
        "track_1\tartist_1\talbum_1\t01/1.mp3\t1.0\trock",
        "track_1\tartist_1\talbum_1\t01/1.mp3\t1.0\tvocals---male",
        ROWS[0],
    ],
)
def test_bad_row_is_one_reject(tmp_path: Path, bad: str) -> None:
    tracks, rejects = scan_source(str(write(tmp_path, [ROWS[0], bad, ROWS[1]])), CORPUS)
    assert [track.id for track in tracks] == ["track_0000948", "track_0001032"]
    assert [(reject.id, reject.reason) for reject in rejects] == [("line 3", "bad-entry")]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    named = CorpusConfig(format="mtg-jamendo")
    with pytest.raises(UserError, match=r"lacks raw_30s_cleantags\.tsv"):
        read_source(str(tmp_path), named)
    write(tmp_path)
    (tmp_path / "audio_licenses.txt").unlink()
    with pytest.raises(UserError, match=r"lacks audio_licenses\.txt"):
        read_source(str(tmp_path), named)
    write(tmp_path)
    (tmp_path / "data/raw_30s_cleantags.tsv").write_text("a\tb\n")
    with pytest.raises(UserError, match="must have the columns TRACK_ID"):
        read_source(str(tmp_path), named)


LINE = st.text(alphabet=st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=20)


@given(
    st.dictionaries(st.integers(0, 9_999_999), st.tuples(LINE, LINE, st.sampled_from(["", "--"])), max_size=5),
    st.lists(LINE, max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_licence_blocks_round_trip(blocks: dict[int, tuple[str, str, str]], noise: list[str]) -> None:
    noise = [line for line in noise if not line.strip().endswith(".mp3")]
    text = "\n".join(noise)
    for number, (title, artist, separator) in blocks.items():
        text += f"\n{number % 100:02d}/{number}.mp3\n{title} by {artist} from Jamendo: http://www.jamendo.com/track/"
        text += f"{number}\nAvailable under a license: http://creativecommons.org/licenses/by/3.0/\n{separator}"
    found = parse_credits(text)
    assert set(found) == {f"{number % 100:02d}/{number}.mp3" for number in blocks}
    assert all(credit.licence == "http://creativecommons.org/licenses/by/3.0/" for credit in found.values())


def test_a_block_cut_short_takes_nothing_from_the_next() -> None:
    found = parse_credits("00/100.mp3\n01/101.mp3\nA by B from Jamendo: x\nAvailable: http://e.org/l")
    assert found == {"00/100.mp3": Credit("", "", ""), "01/101.mp3": Credit("http://e.org/l", "B", "A")}


CELLS = st.sampled_from(["track_0000001", "01/1.mp3", "60.0", "genre---rock", "---", "1e999"]) | LINE


@given(rows=st.lists(st.lists(CELLS, max_size=8), max_size=5))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_are_tracks_or_rejects(tmp_path: Path, rows: list[list[str]]) -> None:
    tracks, rejects = scan_source(str(write(tmp_path, [ROWS[0], *("\t".join(cells) for cells in rows)])), CORPUS)
    assert tracks[0].id == "track_0000948"
    lines = sum(bool("\t".join(cells).strip()) for cells in rows)
    assert len(tracks) + len(rejects) == 1 + lines
