"""Rows of figures (JSON lines) that survive a restart without gaps or doubles.

On a local disk the file grows by one line per row. Object stores cannot append: there every flush writes a
segment `NAME.parts/<first step>.jsonl`, and reading joins them.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from ssmttm import storage


def _parse(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # a line cut short by a kill
            break
    return rows


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _parts(uri: str) -> str:
    return f"{uri}.parts"


def read_rows(uri: str) -> list[dict[str, Any]]:
    """All rows of a log, in order; empty if there is none."""
    if not storage.is_remote(uri):
        return _parse(storage.read_text(uri)) if storage.exists(uri) else []
    folder = _parts(uri)
    return [row for name in storage.list_names(folder) for row in _parse(storage.read_text(storage.join(folder, name)))]


class RowLog:
    """Appends rows that have a `step`; the first flush drops those past the step that training resumes from.

    One thread may append while another flushes.
    """

    def __init__(self, uri: str, keep_until_step: int):
        self.uri = uri
        self._keep_until: int | None = keep_until_step
        self._pending: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def _drop_after(self, step: int) -> None:
        if not storage.is_remote(self.uri):
            storage.write_text(self.uri, _lines([row for row in read_rows(self.uri) if row["step"] <= step]))
            return
        # Segment by segment, so that a kill in between loses and doubles nothing.
        for name in storage.list_names(_parts(self.uri)):
            segment = storage.join(_parts(self.uri), name)
            rows = _parse(storage.read_text(segment))
            kept = [row for row in rows if row["step"] <= step]
            if not kept:
                storage.remove_tree(segment)
            elif len(kept) < len(rows):
                storage.write_text(segment, _lines(kept))

    def append(self, row: dict[str, Any]) -> None:
        with self._lock:
            self._pending.append(row)

    def flush(self) -> None:
        """Write what was appended so far. After a failure the rows are still pending, to be written by the next
        call: on an object store over whatever part of them did arrive."""
        if self._keep_until is not None:
            self._drop_after(self._keep_until)
            self._keep_until = None
        with self._lock:
            rows = list(self._pending)
        if not rows:
            return
        if storage.is_remote(self.uri):
            storage.write_text(storage.join(_parts(self.uri), f"{rows[0]['step']:09d}.jsonl"), _lines(rows))
        else:
            with open(storage.local_path(self.uri), "a", encoding="utf-8") as file:
                file.write(_lines(rows))
                file.flush()
                os.fsync(file.fileno())
        with self._lock:
            del self._pending[: len(rows)]
