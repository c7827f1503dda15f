"""Rows of figures (JSON lines) that survive a restart without gaps or doubles.

On a local disk the file grows by one line per row. Object stores cannot append: there every flush writes a
segment `NAME.parts/<first step>.jsonl`, and reading joins them.
"""

from __future__ import annotations

import json
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


def _parts(uri: str) -> str:
    return f"{uri}.parts"


def read_rows(uri: str) -> list[dict[str, Any]]:
    """All rows of a log, in order; empty if there is none."""
    if not storage.is_remote(uri):
        return _parse(storage.read_text(uri)) if storage.exists(uri) else []
    folder = _parts(uri)
    return [row for name in storage.list_names(folder) for row in _parse(storage.read_text(storage.join(folder, name)))]


class RowLog:
    """Appends rows that have a `step`; opening it drops those past the step that training resumes from."""

    def __init__(self, uri: str, keep_until_step: int):
        self.uri = uri
        self._pending: list[dict[str, Any]] = []
        kept = [row for row in read_rows(uri) if row["step"] <= keep_until_step]
        if storage.is_remote(uri):
            storage.remove_tree(_parts(uri))
            self._pending = kept
            self.flush()
        else:
            storage.write_text(uri, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: dict[str, Any]) -> None:
        self._pending.append(row)

    def flush(self) -> None:
        if not self._pending:
            return
        text = "".join(json.dumps(row) + "\n" for row in self._pending)
        if storage.is_remote(self.uri):
            storage.write_text(storage.join(_parts(self.uri), f"{self._pending[0]['step']:09d}.jsonl"), text)
        else:
            with open(storage.local_path(self.uri), "a", encoding="utf-8") as file:
                file.write(text)
        self._pending = []
