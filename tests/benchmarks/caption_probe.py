"""How far the text encoder alone can tell genres in prompts that no template wrote.

A logistic probe reads the encoder's pooled states (all that the music model's text path begins with), learns genres
from captions of the grammar, and is tested on other captions and on the free-form prompts. What it misses, the
captions do not teach; a music model trained on them will hardly do better.

    python tests/benchmarks/caption_probe.py [--captions 4000]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from random import Random

import numpy as np

from ssmttm.composer.captions import write_captions
from ssmttm.composer.genres import GENRES
from ssmttm.composer.pieces import attributes_of
from ssmttm.conditions.encoders import TextEncoder, load_text_encoder
from ssmttm.config import TextConfig
from ssmttm.evaluation.prompts import FREE_FORM_PROMPTS

SEED = 11
PER_PIECE = 6
HELD_OUT = 0.1  # share of the pieces
REGULARISATION = 1.0  # inverse strength (scikit-learn's C)


def features(encoder: TextEncoder, captions: list[str]) -> np.ndarray:
    """Mean of each caption's token states, float32 [N, D]."""
    return np.stack([states.astype(np.float32).mean(axis=0) for states in encoder.encode(captions)])


def written(pieces: range) -> tuple[list[str], list[str]]:
    """Captions of the pieces, and the genre of each."""
    captions, genres = [], []
    for index in pieces:
        piece = attributes_of(SEED, index)
        for caption in write_captions(Random(f"{SEED}/captions/{index}"), piece, PER_PIECE):
            captions.append(caption)
            genres.append(piece.genre)
    return captions, genres


def measure(count: int) -> dict[str, object]:
    """Shares of captions and prompts whose genre the probe names, and which prompts it takes for what."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    encoder = load_text_encoder(TextConfig())
    pieces = count // PER_PIECE
    held_out = max(len(GENRES), int(pieces * HELD_OUT))
    captions, genres = written(range(pieces))
    others, their_genres = written(range(pieces, pieces + held_out))
    prompts, meant = [list(column) for column in zip(*FREE_FORM_PROMPTS, strict=True)]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=300, tol=1e-3))
    probe.fit(features(encoder, captions), genres)
    heard = probe.predict(features(encoder, prompts))
    hits = Counter(genre for genre, one in zip(meant, heard, strict=True) if genre == one)
    return {
        "captions": len(captions),
        "held_out_captions": round(float(probe.score(features(encoder, others), their_genres)), 3),
        "free_form": round(sum(hits.values()) / len(prompts), 3),
        "free_form_by_genre": {genre: round(hits[genre] / meant.count(genre), 2) for genre in GENRES},
        "misread": {
            prompt: [genre, str(one)] for prompt, genre, one in zip(prompts, meant, heard, strict=True) if genre != one
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=4000)
    print(json.dumps(measure(parser.parse_args().captions), indent=2))


if __name__ == "__main__":
    main()
