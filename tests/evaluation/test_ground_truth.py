"""Tempo and key estimators on composed pieces, whose tempo and key are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssmttm import audio
from ssmttm.config import CorpusConfig
from ssmttm.evaluation import music
from ssmttm.evaluation.embeddings import log_mel
from ssmttm.evaluation.measures import analyse
from ssmttm.sources.composed import compose_corpus
from ssmttm.sources.readers import read_source

PIECES = 48


@pytest.mark.slow
def test_tempo_and_key_of_composed_pieces_are_found(tmp_path: Path) -> None:
    compose_corpus(
        str(tmp_path), PIECES * 10 / 3600, seed=7, clip_seconds=10.0, captions_per_track=1, workers=1, progress=False
    )
    tempo, key = [], []
    for track in read_source(str(tmp_path), CorpusConfig()):
        clip = audio.read(track.audio)
        heard = analyse(clip, log_mel(clip.samples, clip.sample_rate))
        pulses = (1.0, 1.5) if track.tags["meter"] == "6/8" else (1.0,)  # its eighths in threes, or in pairs
        tempo.append(any(music.tempo_matches(heard.bpm, track.tags["bpm"] * pulse) for pulse in pulses))
        key.append(music.key_rank(heard.chroma, track.tags["key"], track.tags["mode"]) == 0)
    assert len(tempo) == PIECES
    assert np.mean(tempo) >= 0.9
    assert np.mean(key) >= 0.7
