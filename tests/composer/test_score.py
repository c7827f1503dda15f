"""Scores are true of the sound: heard with onset strength, pitch classes and the energy of bands alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pychord
import pytest

from ssmttm.composer.compose import Piece, compose, perform
from ssmttm.composer.fonts import find_soundfonts
from ssmttm.composer.pieces import attributes_of
from ssmttm.composer.render import SAMPLE_RATE, Player
from ssmttm.conditions.registry import check_score
from ssmttm.evaluation import music

HOP, WINDOW = 120, 512


@pytest.fixture(scope="module")
def player() -> Player:
    return Player(find_soundfonts()[-1])


def at(timeline: Any, seconds: float) -> Any:
    """The value that holds at a time."""
    if not isinstance(timeline, list):
        return timeline
    return next((value for start, value in reversed(timeline) if start <= seconds), None)


def onsets(samples: np.ndarray) -> np.ndarray:
    """Rise of the spectrum from frame to frame; a frame is 5 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * np.hanning(WINDOW)
    spectra = np.log1p(1000 / WINDOW * np.abs(np.fft.rfft(frames, axis=1)))
    return np.maximum(np.diff(spectra, axis=0), 0).mean(axis=1)


def strength(rise: np.ndarray, times: np.ndarray) -> float:
    """Mean of the strongest rise within 20 ms after each time."""
    places = (times * SAMPLE_RATE - WINDOW / 2).astype(int) // HOP
    places = places[(places > 2) & (places < len(rise) - 4)]
    return float(np.mean([rise[place - 2 : place + 4].max() for place in places]))


def beats(piece: Piece) -> np.ndarray:
    """Times of the beats that a score tells of."""
    beat = piece.score["beat"]
    start, beat = (0.0, beat) if isinstance(beat, dict) else beat[0]
    return np.arange(start, piece.seconds - 1, 60 / beat["bpm"])


def band(samples: np.ndarray, low: float, high: float) -> float:
    """Decibels of a band."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return float(10 * np.log10(power[(frequencies > low) & (frequencies < high)].sum() / len(samples) + 1e-9))


def chord_hits(piece: Piece, samples: np.ndarray) -> list[bool]:
    """Of each chord that lasts, whether its tones are stronger than those of any transposition of it."""
    timeline = piece.score["chord"] if isinstance(piece.score["chord"], list) else [[0.0, piece.score["chord"]]]
    ends = [*(start for start, _ in timeline[1:]), piece.seconds - 0.8]
    hits = []
    for (start, symbol), end in zip(timeline, ends, strict=True):
        if symbol != "N" and end - start > 0.8:
            heard = music.chroma(samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)], SAMPLE_RATE)
            names = pychord.Chord(symbol).components()
            tones = list({music.pitch_class(name) for name in names})
            totals = [heard[[(tone + shift) % 12 for tone in tones]].sum() for shift in range(12)]
            hits.append(int(np.argmax(totals)) == 0)
    return hits


INDICES = (0, 6, 7, 8, 14)  # in 4/4, 3/4 and 6/8, with breaks of drums and of the bass


@pytest.fixture(scope="module")
def pieces(player: Player) -> list[tuple[Piece, np.ndarray]]:
    found = [compose(5, index) for index in INDICES]
    return [(piece, perform(player, piece).samples[0]) for piece in found]


def test_beats_are_where_it_says(pieces: list[tuple[Piece, np.ndarray]]) -> None:
    for piece, samples in pieces:
        rise, times = onsets(samples), beats(piece)
        period = 60 / piece.arrangement.bpm
        for late in (0.125, 0.375, 0.85):  # of a beat; halves and thirds may be played
            assert strength(rise, times) > 1.3 * strength(rise, times + late * period), (piece.index, late)
        stretched = times * 1.01  # a hundredth too slow is off the beat before long
        assert strength(rise, times) > 1.3 * strength(rise, stretched[len(times) // 3 :]), piece.index


def test_chords_are_those_that_sound(pieces: list[tuple[Piece, np.ndarray]]) -> None:
    hits = [hit for piece, samples in pieces for hit in chord_hits(piece, samples)]
    assert len(hits) > 50
    assert np.mean(hits) > 0.9  # 0.08 by chance


def test_drums_and_bass_are_silent_where_it_says(pieces: list[tuple[Piece, np.ndarray]]) -> None:
    compared = []
    for piece, samples in pieces:
        for name, low, high in (("drums", 6000, 11_900), ("bass", 30, 130)):
            levels: dict[bool, list[float]] = {True: [], False: []}
            for second in range(int(piece.seconds) - 1):
                plays = {at(piece.score[name], second + part) for part in (0.0, 0.5, 0.99)}
                if len(plays) == 1:
                    levels[plays.pop()].append(band(samples[second * SAMPLE_RATE :][:SAMPLE_RATE], low, high))
            if len(levels[True]) > 3 and len(levels[False]) > 3:
                compared.append(name)
                assert np.median(levels[True]) > np.median(levels[False]) + 2.5, (piece.index, name)
    assert min(compared.count("drums"), compared.count("bass")) >= 2


def test_keys_are_those_that_sound(player: Player) -> None:
    """Of pieces that modulate, each key in its own time."""
    ranks = []
    for index in [index for index in range(40) if attributes_of(6, index).modulates][:2]:
        piece = compose(6, index)
        samples = perform(player, piece).samples[0]
        timeline = piece.score["scale"]
        assert len(timeline) >= 2
        for (start, name), end in zip(timeline, [*(one[0] for one in timeline[1:]), piece.seconds], strict=True):
            key, mode = name.split()
            heard = music.chroma(samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)], SAMPLE_RATE)
            ranks.append(music.key_rank(heard, key, mode))
    assert len(ranks) >= 4
    assert np.mean(np.array(ranks) <= 1) > 0.7


def test_an_excerpt_is_the_same_music_with_its_score_moved_along(player: Player) -> None:
    alike = []
    for index in (0, 8):
        whole, part = compose(5, index), compose(5, index, 6.0)
        first = round(part.start * SAMPLE_RATE)
        expected = perform(player, whole).samples[0, first : first + 6 * SAMPLE_RATE]
        heard = perform(player, part).samples[0]
        assert heard.shape == expected.shape
        alike.append(np.corrcoef(onsets(heard), onsets(expected))[0, 1])
        shifted = np.corrcoef(onsets(heard)[20:], onsets(expected)[:-20])[0, 1]
        assert alike[-1] > shifted + 0.3
        for time in np.arange(0.05, 6.0, 0.1):
            for name in ("chord", "scale", "drums", "bass"):
                assert at(part.score[name], time) == at(whole.score[name], part.start + time), (index, name, time)
    assert min(alike) > 0.8


@pytest.mark.parametrize("index", range(20))
def test_scores_of_excerpts(index: int) -> None:
    """Beats and notes lie where the whole piece has them; times ascend from 0 within the excerpt."""
    whole, part = compose(5, index), compose(5, index, 5.0)
    assert part == compose(5, index, 5.0)
    assert check_score(whole.score) == whole.score  # by those who read it
    assert check_score(part.score) == part.score
    beat = whole.score["beat"]
    entries = part.score["beat"] if isinstance(part.score["beat"], list) else [[0.0, part.score["beat"]]]
    for start, value in entries:
        assert value["bpm"] == beat["bpm"] == part.attributes.bpm
        period = whole.arrangement.bar_s if "meter" in value else 60 / beat["bpm"]
        off = (part.start + start) / period
        assert abs(off - round(off)) * period < 0.002
    assert entries[-1][1] == beat
    for name in ("beat", "chord", "scale", "drums", "bass"):
        if isinstance(part.score[name], list):
            times = [start for start, _ in part.score[name]]
            assert times == sorted(set(times))
            assert 0 <= times[0] <= (60 / beat["bpm"] if name == "beat" else 0)
            assert times[-1] < 5.0 or name == "beat"
    notes = {(round(start, 2), pitch) for start, _, pitch in whole.score["melody"]}
    for start, duration, pitch in part.score["melody"]:
        assert 0 <= start < start + duration <= 5.001
        nearest = min(abs(part.start + start - time) for time, other in notes if other == pitch)
        assert nearest < 0.02 or start == 0
    drums = part.score["drums"]
    assert part.attributes.drums == (drums if isinstance(drums, bool) else True)
    key = part.score["scale"] if isinstance(part.score["scale"], str) else part.score["scale"][0][1]
    assert key == f"{part.attributes.key} {part.attributes.mode}"
    assert part.attributes.modulates == isinstance(part.score["scale"], list)


def test_whole_pieces() -> None:
    pieces = [compose(5, index) for index in range(50)]
    seconds = [piece.seconds for piece in pieces]
    assert 30 <= min(seconds) < 37
    assert 53 < max(seconds) <= 60
    for piece in pieces:
        score = piece.score
        assert score["beat"] == {"bpm": piece.attributes.bpm, "meter": piece.arrangement.form.meter.value}
        assert isinstance(score["scale"], list) == piece.attributes.modulates
        assert score["drums"] is False or piece.attributes.drums
        for name in ("chord", "drums", "bass"):
            if isinstance(score[name], list):
                assert score[name][0][0] == 0.0
                assert all(one[1] != other[1] for one, other in zip(score[name], score[name][1:], strict=False))


@pytest.mark.parametrize("seconds", [1.0, 62.0])
def test_excerpts_of_any_length(seconds: float, player: Player) -> None:
    piece = compose(5, 1, seconds)
    assert (piece.seconds, perform(player, piece).samples.shape[1]) == (seconds, round(seconds * SAMPLE_RATE))
