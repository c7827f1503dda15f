"""Chords and keys by frame, from however musicians write them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.conditions.harmony import Chord, Scale, read_chord, read_key
from ssmttm.errors import UserError

C, D, E, F, G, A, B = 0, 2, 4, 5, 7, 9, 11


def chord(symbol: str) -> tuple[list[int], list[int], list[int], bool]:
    """Roots, basses and pitch classes that the channels name, and whether they say that there is no chord."""
    values_C = Chord().encode(symbol, 1, 25.0)[:, 0]
    root, bass, notes = (np.flatnonzero(part).tolist() for part in values_C[:-1].reshape(3, 12))
    assert set(values_C) <= {0, 1}
    return root, bass, notes, values_C[-1] == 1


@pytest.mark.parametrize(
    ("symbol", "root", "bass", "notes"),
    [
        ("C", C, C, [C, E, G]),
        ("F", F, F, [C, F, A]),
        ("Am7/G", A, G, [C, E, G, A]),
        ("C/D", C, D, [C, D, E, G]),
        ("Bdim", B, B, [D, F, B]),
        ("Db", 1, 1, [1, F, 8]),
        ("G#sus4", 8, 8, [1, 3, 8]),
    ],
)
def test_a_chord_is_its_root_bass_and_notes(symbol: str, root: int, bass: int, notes: list[int]) -> None:
    assert chord(symbol) == ([root], [bass], notes, False)


@pytest.mark.parametrize("symbol", ["N", "N.C.", "NC"])
def test_no_chord_is_known_to_be_none(symbol: str) -> None:
    assert chord(symbol) == ([], [], [], True)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("C6/9", "C69"),
        ("C6/9/E", "C69/E"),
        ("CΔ", "CM7"),
        ("CΔ9", "CM9"),
        ("Cmaj", "C"),
        ("Cma7", "CM7"),
        ("CMaj7", "CM7"),
        ("Cmadd9", "Cm(add9)"),
        ("C-7", "Cm7"),
        ("Cmin7/G", "Cm7/G"),
        ("C minor", "Cm"),
        ("Cm(maj7)", "CmM7"),
        ("CmΔ", "CmM7"),
        ("Cø", "Cm7b5"),
        ("Cø7", "Cm7b5"),
        ("Cm7-5", "Cm7b5"),
        ("C°", "Cdim"),
        ("Co7", "Cdim7"),
        ("C+", "Caug"),
        ("C+7", "C7#5"),
        ("Caug7", "C7#5"),
        ("C7(b9,#11)", "C7b9#11"),
        ("C7sus", "C7sus4"),
        ("Calt", "C7alt"),
        ("B♭m", "Bbm"),
        ("F♯7", "F#7"),
        (" A m ", "Am"),
    ],
)
def test_one_chord_is_written_in_many_ways(written: str, meant: str) -> None:
    assert read_chord(written) == read_chord(meant)


def test_brackets_tell_a_flattened_fifth_from_a_flattened_root() -> None:
    assert chord("C(b5)") == ([C], [C], [C, E, 6], False)
    assert chord("Cb5") == ([B], [B], [6, B], False)


@settings(max_examples=40)
@given(st.sampled_from("CDEFGAB"), st.sampled_from(["", "#", "b"]), st.sampled_from(["", "m", "7", "m7b5", "6/9", "ø"]))
def test_chords_of_one_kind_are_one_chord_moved(letter: str, accidental: str, quality: str) -> None:
    found, of_c = read_chord(letter + accidental + quality), read_chord(f"C{quality}")
    assert found is not None
    assert of_c is not None
    steps = [C, D, E, F, G, A, B]["CDEFGAB".index(letter)] + {"": 0, "#": 1, "b": -1}[accidental]
    assert found.root == steps % 12
    assert found.notes == {(note + steps) % 12 for note in of_c.notes}


@pytest.mark.parametrize(
    "value", ["H", "", "am", "Cfoo", "C/", "C/2", "C/99999999999", "Am F", 7, True, {}, "C" * 10**5]
)
def test_what_is_no_chord_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError, match=r"controls\.chord is .*; give a chord symbol, as \"Am7/G\"") as refused:
        Chord().encode(value, 5, 25.0)
    assert len(str(refused.value)) < 200


def test_chords_follow_one_another() -> None:
    values_CT = Chord().encode([[0, "Am"], [0.08, "F"], [0.16, "N"], [0.24, None]], 8, 25.0)
    assert values_CT[:12].argmax(axis=0)[:4].tolist() == [A, A, F, F]
    assert values_CT[-1, 4:6].tolist() == [1, 1]
    assert np.isnan(values_CT[:, 6:]).all()


def scale(text: str) -> tuple[list[int], list[int], list[float]]:
    values_C = Scale().encode(text, 1, 25.0)[:, 0]
    return np.flatnonzero(values_C[:12]).tolist(), np.flatnonzero(values_C[12:24]).tolist(), values_C[24:].tolist()


WHITE = [C, D, E, F, G, A, B]


@pytest.mark.parametrize(
    ("text", "notes", "tonic", "mode"),
    [
        ("C major", WHITE, [C], [1, 0]),
        ("A minor", WHITE, [A], [0, 1]),
        ("D dorian", WHITE, [D], [0, 1]),
        ("G mixolydian", WHITE, [G], [1, 0]),
        ("C major/A minor", WHITE, [], [0, 0]),
        ("A minor / C major", WHITE, [], [0, 0]),
        ("F# minor", [1, D, E, 6, 8, A, B], [6], [0, 1]),
    ],
)
def test_a_key_is_its_notes_tonic_and_mode(text: str, notes: list[int], tonic: list[int], mode: list[int]) -> None:
    assert scale(text) == (notes, tonic, mode)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Am", "A minor"),
        ("CM", "C major"),
        ("a Minor", "A minor"),
        ("Bb maj", "A# major"),
        ("E-flat major", "Eb major"),
        ("c sharp minor", "C# minor"),
        ("F♯ Aeolian", "F# minor"),
        ("Eb:min", "Eb minor"),
    ],
)
def test_one_key_is_written_in_many_ways(written: str, meant: str) -> None:
    assert read_key(written) == read_key(meant)


@pytest.mark.parametrize(
    "value", ["A", "8A", "H minor", "C major/B minor", "C major/", "", "minor", 3, None, "A " * 99]
)
def test_what_is_no_key_is_refused_by_name(value: object) -> None:
    with pytest.raises(
        UserError, match=r"controls\.scale\[0\] is .*; give a key, as \"A minor\", or two relative ones"
    ):
        Scale().encode([[0, value or "x"]], 5, 25.0)


@settings(max_examples=40)
@given(st.text(max_size=12), st.sampled_from([Chord, Scale]))
def test_any_text_is_taken_or_refused(text: str, control: type[Chord] | type[Scale]) -> None:
    try:
        values_CT = control().encode(text, 2, 25.0)
    except UserError:
        return
    assert values_CT.shape == (control.channels, 2)
