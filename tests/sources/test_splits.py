"""What is held out: artists and albums whole, something always, and only what can be used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.config import CorpusConfig
from ssmttm.errors import UserError
from ssmttm.sources.manifest import Track
from ssmttm.sources.readers import read_source
from ssmttm.sources.splits import groups_of, hold_out, with_held_out


def track(name: str, artist: str = "", album: str = "", split: str = "train") -> Track:
    return Track(name, f"/{name}.wav", (), split, "", artist, "", "", 0.0, {"album": album} if album else {})  # type: ignore[arg-type]


def held(tracks: Iterable[Track]) -> set[str]:
    return {one.id for one in tracks if one.split == "val"}


def test_no_artist_and_no_album_is_on_both_sides() -> None:
    tracks = [track(f"{n}", f"Artist {n % 60}", f"Album {n % 90}") for n in range(360)]
    splits = defaultdict(set)
    for one in hold_out(tracks):
        splits[one.artist].add(one.split)
        splits[one.tags["album"]].add(one.split)
    assert {frozenset(found) for found in splits.values()} == {frozenset({"train"}), frozenset({"val"})}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Ann", ""), ("ann ", "")),
        (("caf\u00e9", ""), ("CAFE\u0301", "")),
        (("Ann feat. Bo", ""), ("Bo", "")),
        (("Ann; Bo", ""), ("Bo", "")),
        (("Ann", "Live"), ("Bo", "live")),
    ],
)
def test_the_same_artist_or_album_however_it_is_written(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert len(groups_of([track("a", *one), track("b", *other)])) == 1


@pytest.mark.parametrize("name", ["", "Unknown Artist", "unknown", "Various Artists", "N/A", "None"])
def test_names_that_name_nobody_join_nothing(name: str) -> None:
    assert len(groups_of([track("a", name), track("b", name), track("c", "Ann", name), track("d", "Bo", name)])) == 4


def test_of_one_artist_albums_are_held_out_and_of_one_album_tracks() -> None:
    tracks = [track(f"{n}", "Me", f"Album {n % 3}") for n in range(9)]
    (album,) = {one.tags["album"] for one in hold_out(tracks) if one.split == "val"}
    assert held(hold_out(tracks)) == {one.id for one in tracks if one.tags["album"] == album}
    assert len(held(hold_out([track(f"{n}", "Me", "Debut") for n in range(9)]))) == 1


def test_a_guest_is_held_out_rather_than_nearly_everything() -> None:
    assert held(hold_out([*(track(f"{n}", "Me") for n in range(20)), track("guest", "You")])) == {"guest"}


def test_tracks_of_no_artist_are_chosen_by_their_own_names_as_ever() -> None:
    names = [f"{n:03d}" for n in range(200)]
    assert held(hold_out([track(name) for name in names])) == {
        "057", "063", "089", "146", "149", "152", "178"
    }  # fmt: skip
    assert held(hold_out([track(name) for name in ("long", "short", "plain", "broken")])) == {"plain"}


def test_files_added_later_move_no_other_artist() -> None:
    tracks = [track(f"{n}", f"Artist {n % 100}") for n in range(300)]
    before = held(hold_out(tracks))
    after = hold_out([*tracks, *(track(f"new {n}", f"Artist {n}") for n in range(50, 150))])
    assert before
    assert {name for name in held(after) if not name.startswith("new")} == before


def test_what_is_stated_stays_and_its_artist_goes_with_it() -> None:
    tracks = [track("a", "Ann", split="val"), track("b", "Ann"), track("c", "Bo"), track("d", "Bo"), track("e", "Cy")]
    assert held(hold_out(tracks, {"a"})) == {"a", "b"}
    assert held(hold_out([track("a", "Ann"), track("b", "Ann"), track("c", "Bo")], {"a"})) == {"c"}


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "A", "B", "C", "D feat. A"]), st.sampled_from(["", "X", "Y"])), max_size=12
    ),
    st.sets(st.integers(0, 11)),
)
@settings(max_examples=200, deadline=None)
def test_whatever_there_is_something_is_held_out_and_most_is_not(
    names: list[tuple[str, str]], broken: set[int]
) -> None:
    tracks = hold_out([track(f"{n}", *pair) for n, pair in enumerate(names)])
    assert 2 * len(held(tracks)) <= len(tracks)
    assert bool(held(tracks)) == (len(tracks) > 1)
    usable = {one.id for one in tracks if int(one.id) not in broken}
    if len(usable) < 2:
        if tracks:
            with pytest.raises(UserError, match=f"{len(usable)} of {len(tracks)} tracks can be used"):
                with_held_out(tracks, lambda one: one.id in usable)
        return
    try:
        after, line = with_held_out(tracks, lambda one: one.id in usable)
    except UserError:  # all that is left to learn from cannot be used, and what is held out stays so
        assert not usable - held(tracks)
        return
    assert held(after) & usable
    assert usable - held(after)
    assert held(tracks) <= held(after)
    assert bool(line) == (held(after) != held(tracks))


def test_another_is_held_out_for_one_that_cannot_be_used_and_it_is_said() -> None:
    tracks = [track("a", split="val"), track("b"), track("c")]
    after, line = with_held_out(tracks, lambda one: one.id != "a")
    assert held(after) in ({"a", "b"}, {"a", "c"})
    assert line.startswith("none of the 1 tracks to be held out can be used: 1 of 3 tracks are held out, ")
    assert with_held_out(tracks, lambda one: True) == (tracks, "")
    everything = [track("a", split="val"), track("b", split="val")]
    assert with_held_out(everything, lambda one: True) == (everything, "")  # data to evaluate on


def test_as_few_files_as_will_do_are_looked_into() -> None:
    asked: list[str] = []
    with_held_out(hold_out([track(f"{n}") for n in range(50)]), lambda one: bool(asked.append(one.id)) or True)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "test"), {"test/a"}),
        (("Train", "Validation"), {"Validation/a"}),
        (("data/train", "data/dev"), {"data/dev/a"}),
        (("training", "val"), {"val/a"}),
        (("train", "eval", "valid"), {"eval/a", "valid/a"}),
    ],
)
def test_folders_called_as_parts_of_a_data_set_are_its_parts(
    tmp_path: Path, folders: tuple[str, ...], expected: set[str]
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").touch()
    assert held(read_source(str(tmp_path), CorpusConfig())) == expected
    (tmp_path / folders[-1] / "a.json").write_text('{"split": "train"}')  # what a file says of itself comes first
    assert f"{folders[-1]}/a" not in held(read_source(str(tmp_path), CorpusConfig()))
