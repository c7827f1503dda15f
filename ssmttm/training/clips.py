"""What a codec and its vocoder learn from: clips of a corpus, let in as a data set's tracks are, and recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssmttm import licences, storage
from ssmttm.config import Config
from ssmttm.errors import UserError
from ssmttm.sources.manifest import (
    REJECTS_NAME,
    Reject,
    Track,
    count_reasons,
    read_rejects,
    relative_to_source,
    source_root,
    to_jsonl,
)
from ssmttm.tokens.admit import decoding_of, licensed_tracks, measure
from ssmttm.tokens.attribution import Recording, attribution_csv
from ssmttm.tokens.decode import Segment, read_segments
from ssmttm.tokens.vocals import vocal_remover

HELD_OUT_CLIPS = 16


def corpus_settings(config: Config) -> dict[str, Any]:
    """Which clips a codec is given, and what is done to them."""
    keys = {"source", "default_licence", "allow_licences", "segment_seconds", "minimum_seconds", "loudness"}
    keys |= {"silence_dbfs", "maximum_clipped", "duplicates", "vocals"}
    return config.corpus.model_dump(mode="json", include=keys)


def choose_clips(tracks: Sequence[Track], count: int, seed: int) -> tuple[list[Track], list[Track]]:
    """Clips to fit on, at most `count`, and clips to measure on, at most `HELD_OUT_CLIPS`.

    Held out are tracks of the `val` split, or, in a corpus without one, training tracks that are not fitted on.

    Raises:
        UserError: if nothing is left for one of the two.
    """
    generator = np.random.default_rng(seed)
    train = [track for track in tracks if track.split == "train"]
    order = [train[i] for i in generator.permutation(len(train))]
    validation = [track for track in tracks if track.split == "val"]
    if not validation:
        count = min(count, len(order) - 1)
        validation = order[count:]
    if not train or count < 1:
        raise UserError("the corpus has too few tracks to fit a codec and measure it; give at least two")
    picks = generator.permutation(len(validation))[:HELD_OUT_CLIPS]
    return order[:count], [validation[i] for i in picks]


class ClipReader:
    """Clips of a corpus for a codec to learn from or be measured on: one segment of each track, the whole of it or a
    seeded place of a longer one. They are let in, decoded and refused as they are for a data set; only captions do not
    matter, as a codec learns nothing of them.

    Attributes:
        tracks: those that passed, as far as can be known before they are decoded.
        rejects: what was refused so far.

    Raises:
        UserError: if the source cannot be read.
    """

    def __init__(self, config: Config):
        corpus = self.corpus = config.corpus
        self._seed, self._remove_vocals = config.train.seed, vocal_remover(corpus)
        vocals = "keep" if self._remove_vocals is None else self._remove_vocals.fingerprint
        self._decoding = decoding_of(corpus, config.codec.sample_rate, vocals)
        tracks, self.rejects = licensed_tracks(corpus)
        measured, refused = measure(tracks, corpus)
        self.rejects += refused
        self.tracks = [one.track for one in measured]

    def read(self, tracks: Iterable[Track], used: dict[str, float]) -> Iterator[np.ndarray]:
        """Clips float32 [N] at the codec's rate. `used` gets the ids of their tracks, with each clip's seconds;
        the others get into `rejects`."""
        for track in tracks:
            length = min(self.corpus.segment_seconds, track.duration_s)
            if length < self.corpus.minimum_seconds:
                detail = f"{length:.2f} s, the minimum is {self.corpus.minimum_seconds:g} s"
                self.rejects.append(Reject(track.id, track.audio, "too-short", detail))
                continue
            place = np.random.default_rng([self._seed, *track.id.encode()]).random()
            segment = Segment(track, 0, place * (track.duration_s - length), length)
            ((_, clip),) = read_segments([segment], self._decoding, self._remove_vocals)
            if isinstance(clip, Reject):
                self.rejects.append(clip)
                continue
            used[track.id] = len(clip) / self._decoding.sample_rate
            yield clip

    def write_rejects(self, folder: str) -> None:
        """Add what was refused to `rejects.jsonl` in a codec's folder."""
        uri = storage.join(folder, REJECTS_NAME)
        known = read_rejects(folder) if storage.exists(uri) else []
        root = source_root(self.corpus.source)
        refused = [replace(r, audio=relative_to_source(r.audio, root)) for r in self.rejects]
        storage.make_dirs(folder)
        storage.write_text(uri, to_jsonl({(r.id, r.reason): r for r in (*known, *refused)}.values()))

    def attribution(self, used: Mapping[str, float]) -> str:
        """The attribution table of the tracks used, from seconds by id."""
        table: dict[Recording, float] = {}
        root = source_root(self.corpus.source)
        for track in self.tracks:
            if track.id in used:
                audio = relative_to_source(track.audio, root)
                table[track.id, track.title, track.artist, track.licence, track.source_url, audio] = used[track.id]
        return attribution_csv(table)

    def record(self, learned: Mapping[str, float]) -> dict[str, Any]:
        """What was learned from, and what was not, for reports and cards; `learned`: seconds by track id."""
        by_licence: dict[str, float] = defaultdict(float)
        for track in self.tracks:
            if track.id in learned:
                by_licence[licences.normalise(track.licence) or track.licence] += learned[track.id]
        return {
            "tracks": len(learned),
            "seconds_by_licence": {name: round(seconds, 3) for name, seconds in sorted(by_licence.items())},
            "allow_licences": list(self.corpus.allow_licences),
            "rejects": len(self.rejects),
            "rejects_by_reason": count_reasons(self.rejects),
        }

    def refusals(self) -> str:
        """What was refused, in a line."""
        reasons = ", ".join(f"{reason} {number}" for reason, number in count_reasons(self.rejects).items())
        return f"refused of {self.corpus.source}: {reasons or 'none'}"


def read_held_out(
    reader: ClipReader, to_learn: list[Track], held_out: list[Track], used: dict[str, float]
) -> list[np.ndarray]:
    """Clips to measure on. Where none of those chosen can be used, the last of `to_learn` that can is taken from it."""
    originals = list(reader.read(held_out, used))
    while not originals and len(to_learn) > 1:
        originals = list(reader.read([to_learn.pop()], used))
    return originals
