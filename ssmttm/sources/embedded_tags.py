"""Tags inside audio files: title, artist, genre and licence, as libsndfile finds them (ID3, Vorbis comments, INFO).

It gives no tempo.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import soundfile

from ssmttm import storage
from ssmttm.sources import licences

READER_THREADS = 16


def read_embedded(uri: str) -> dict[str, str]:
    """The tags of one file; none if it cannot be opened, which is told when it is preprocessed.

    A licence counts only if it is one that we know: the field mostly holds a copyright notice.
    """
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as stream, soundfile.SoundFile(stream) as file:
            found = file.copy_metadata()
    except (soundfile.LibsndfileError, FileNotFoundError, PermissionError, IsADirectoryError):
        return {}
    tags = {name: found.get(name, "").strip() for name in ("title", "artist", "genre")}
    notices = [found.get(name, "").strip() for name in ("license", "copyright")]
    tags["licence"] = next((notice for notice in notices if licences.normalise(notice)), "")
    return {name: value for name, value in tags.items() if value}


def read_all_embedded(uris: Sequence[str]) -> list[dict[str, str]]:
    """`read_embedded` of many files. Threads: each has to be opened, perhaps on an object store."""
    with ThreadPoolExecutor(READER_THREADS) as pool:
        return list(pool.map(read_embedded, uris))
