"""Words of musicians become timelines of controls; where bars lie is told by slow, obvious counting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm.conditions.handles import CONTROLS, WORDS, Handles, bars_of_chords, meter_of, words_of
from ssmttm.conditions.registry import requested
from ssmttm.errors import UserError


def test_what_holds_for_the_whole_piece_is_a_value() -> None:
    handles = Handles(bpm=96.5, key="A minor", drums=False, bass=True, density=0.3, melody=((0.0, 1.0, 60.0),))
    assert handles.by_control(10.0) == {
        "beat": {"bpm": 96.5, "meter": None},
        "scale": "A minor",
        "drums": False,
        "bass": True,
        "density": 0.3,
        "melody": [[0.0, 1.0, 60.0]],
    }
    assert Handles().by_control(10.0) == {}


@pytest.mark.parametrize(
    ("text", "bars"),
    [
        ("Am F C", [["Am"], ["F"], ["C"]]),
        ("Am F | C G7/B | %", [["Am", "F"], ["C", "G7/B"], ["C", "G7/B"]]),
        ("| Am | % | % |", [["Am"]] * 3),
        ("N %", [["N"], ["N"]]),
        ("Am|F", [["Am"], ["F"]]),
    ],
)
def test_chords_are_written_by_bars(text: str, bars: list[list[str]]) -> None:
    assert bars_of_chords(text) == bars


@pytest.mark.parametrize("text", ["", " ", "|", "Am | | F", "%", "% Am", "Am | F %", "| " + "A " * 17])
def test_chords_that_make_no_bars_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^chords "):
        bars_of_chords(text)


def test_chords_repeat_to_the_end_and_share_their_bar() -> None:
    chords = Handles(bpm=120, meter=3, chords="Am F | C").by_control(5.0)["chord"]
    assert chords == [[0.0, "Am"], [0.75, "F"], [1.5, "C"], [3.0, "Am"], [3.75, "F"], [4.5, "C"]]
    assert Handles(bpm=120, chords="Am").by_control(60.0)["chord"] == "Am"


def test_counted_bars_have_a_metre_and_others_need_none() -> None:
    assert Handles(bpm=120, chords="Am").by_control(1.0)["beat"] == {"bpm": 120, "meter": 4}
    assert Handles(bpm=120, meter="6/8", chords="Am | F").by_control(2.5)["chord"] == [[0, "Am"], [1, "F"], [2, "Am"]]
    assert [meter_of(value) for value in (3, "3", "3/4", "6/8", " 7/4")] == [3, 3, 3, "6/8", 7]


def test_changes_take_hold_at_their_time_and_none_asks_for_nothing() -> None:
    changes = [
        {"at": 2.0, "key": "D minor"},
        {"at": "bar 3", "bpm": 60, "drums": False},
        {"at": "bar 4 beat 3", "key": None, "chords": "F"},
        {"at": "Bar 6", "drums": True, "height": 3},
    ]
    handles = Handles(bpm=120, key="A minor", chords="Am C", controls=changes)
    assert handles.by_control(20.0) == {
        "beat": [[0.0, {"bpm": 120, "meter": 4}], [4.0, {"bpm": 60, "meter": 4}]],
        "scale": [[0.0, "A minor"], [2.0, "D minor"], [10.0, None]],
        "chord": [[0.0, "Am"], [2.0, "C"], [4.0, "Am"], [8.0, "C"], [10.0, "F"]],
        "drums": [[4.0, False], [16.0, True]],
        "height": [[16.0, 3]],
    }


def test_a_new_tempo_begins_a_bar() -> None:
    """Bar 3 is cut after a second; the next one is the fourth."""
    handles = Handles(bpm=120, bars=6, controls=[{"at": 5.0, "bpm": 60}, {"at": "bar 5", "drums": False}])
    assert handles.by_control(20.0)["drums"] == [[9.0, False]]
    assert handles.length_s == 5 + 3 * 4


tempi = st.floats(20, 400)


@given(st.lists(st.tuples(st.integers(1, 6), tempi, st.integers(2, 7)), min_size=1, max_size=5), st.integers(1, 9))
def test_bars_are_counted_through_changes_of_tempo(parts: list[tuple[int, float, int]], last: int) -> None:
    """Against adding up one bar after another."""
    changes, starts, time = [], [0.0], 0.0
    for place, (bars, bpm, meter) in enumerate(parts):
        changes.append({"at": f"bar {len(starts)}", "bpm": bpm, "meter": meter})
        for _ in range(bars if place + 1 < len(parts) else last):
            time += meter * 60 / bpm
            starts.append(time)
    (_, bpm, meter), rest = parts[0], changes[1:]
    handles = Handles(bpm=bpm, meter=meter, bars=len(starts) - 1, controls=rest)
    assert handles.length_s == pytest.approx(time)
    for bar, start in enumerate(starts[:-1], 1):
        asked = Handles(bpm=bpm, meter=meter, controls=[*rest, {"at": f"bar {max(bar, len(starts) - last)}"}])
        assert asked.length_s is None
        line = Handles(
            bpm=bpm, meter=meter, controls=rest, chords=" ".join("AB"[k % 2] for k in range(len(starts) - 1))
        )
        told = line.by_control(time)["chord"]
        if len(starts) > 2:
            assert told[bar - 1] == [pytest.approx(start), "AB"[(bar - 1) % 2]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"bars": 4}, "bars needs bpm"),
        ({"chords": "Am"}, "chords needs bpm"),
        ({"meter": 3}, "meter needs bpm"),
        ({"key": ""}, "key is ''; give a key, as A minor"),
        ({"drums": 1}, "drums is 1; give true or false"),
        ({"melody": [[0, 0, 60]]}, r"melody is \[0, 0, 60\]; give notes"),
        ({"melody": [[0, 1, 60]] * 5000}, "melody has 5000 notes; give up to 4096"),
        ({"controls": 5}, "controls is 5; give values by name, or changes as"),
        ({"controls": "x"}, "controls is 'x'; give values by name, or changes as"),
        ({"controls": [3]}, 'a change among controls has no "at"'),
        ({"controls": [{"drums": True}]}, 'a change among controls has no "at"'),
        ({"controls": [{"at": -1}]}, "at is -1; give seconds from 0, or as"),
        ({"controls": [{"at": 10**400}]}, "at is 1000"),
        ({"controls": [{"at": "bar " + "9" * 5000}]}, "at is 'bar 999"),
        ({"controls": [{"at": "bar 0"}]}, "at is 'bar 0'; give seconds from 0, or as"),
        ({"controls": [{"at": "bar 2"}]}, "at: 'bar 2' needs bpm, before it or beside it"),
        (
            {"bpm": 90, "meter": 3, "controls": [{"at": "bar 2 beat 4"}]},
            "at: beat 4 is past the end of bar 2; it has 3",
        ),
        ({"controls": [{"at": 3, "bpm": "90"}]}, "bpm is '90'; give a number from 20 to 400"),
        ({"controls": [{"at": 3, "density": 2}]}, "density is 2; give a number from 0 to 1"),
        ({"controls": [{"at": 3, "chord": "Am"}]}, "controls: chord is asked by chords where changes are listed"),
        ({"controls": [{"at": 3, "bars": 4}]}, "controls: bars holds for the whole piece; give it beside controls"),
        ({"controls": [{"at": 3}, {"at": 2}]}, "at: 2 comes before the change above it; sort controls by time"),
        ({"bpm": 90, "controls": {"beat": {"bpm": 80}}}, "bpm and controls.beat ask for the same; give one of them"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}") as refused:
        Handles(**words)
    assert "\n" not in str(refused.value)


def test_a_word_is_refused_whose_control_the_model_does_not_know() -> None:
    Handles(bpm=90, meter=3, bars=2).check(["beat"])
    with pytest.raises(UserError, match=r"^chords: this model cannot be asked by chords; it takes bpm, meter, bars$"):
        Handles(bpm=90, chords="Am").check(["beat"])
    with pytest.raises(UserError, match=r"^drums: this model cannot be asked by drums; it takes text alone$"):
        Handles(controls=[{"at": 3, "drums": True}]).check([])
    with pytest.raises(
        UserError, match=r"^controls.depth: this model cannot be asked by depth; it takes controls.height$"
    ):
        Handles(controls={"depth": 3}).check(["height"])
    Handles(controls={"height": 3}).check(["height"])


def test_examples_are_taken_by_the_words_and_by_the_controls() -> None:
    examples = {word: told.example for word, told in WORDS.items()}
    asked = Handles(**examples, controls=[{"at": "bar 2 beat 2", "key": None, "drums": True, "bpm": 61}]).by_control(
        9.0
    )
    told = requested(asked, list(asked), 90, 10.0)
    assert set(told) == CONTROLS
    assert bool(told["scale"].known_BT[0, 0])
    assert not bool(told["scale"].known_BT[0, -1])
    assert set(Handles(**examples).by_control(9.0)) == {told.control for told in WORDS.values()}
    assert words_of(["beat", "height"]) == {"bpm": 96.5, "meter": "3/4", "bars": 8, "controls.height": None}
