"""Answers of a listening test, in one sqlite file. Of a listener nothing is kept: no name, address or time."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.evaluation.listening import Kind, Settings, Trial

_TABLES = """
CREATE TABLE IF NOT EXISTS test (id INTEGER PRIMARY KEY CHECK (id = 0), content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS answers (
  session TEXT NOT NULL REFERENCES sessions (id), trial INTEGER NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
  systems TEXT NOT NULL, expected TEXT NOT NULL, preference TEXT, quality INTEGER, relevance INTEGER,
  PRIMARY KEY (session, trial));
"""


@dataclass(frozen=True)
class Answer:
    """What was answered to a trial: a preference (`a`, `b` or `same`), or quality and relevance from 1 to 5."""

    session: str
    trial: int
    kind: Kind
    item: str
    systems: tuple[str, ...]
    expected: str | int | None
    preference: str | None = None
    quality: int | None = None
    relevance: int | None = None


class Answers:
    """The file behind a test; safe to open from several threads and processes.

    Args:
        path: a local file, made if it is not there.
    """

    def __init__(self, path: str):
        self._path = storage.local_path(path)
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        try:
            with self._open() as database:
                database.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} is not a file of answers ({error}); give another name") from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=30)) as database, database:
            yield database

    def settle(self, systems: list[str], items: list[str], settings: Settings) -> None:
        """Note what the test consists of.

        Raises:
            UserError: if the file has answers of another test.
        """
        content = json.dumps({"systems": systems, "items": items, "settings": asdict(settings)}, sort_keys=True)
        with self._open() as database:
            database.execute("INSERT OR IGNORE INTO test VALUES (0, ?)", (content,))
            (stored,) = database.execute("SELECT content FROM test").fetchone()
        if stored != content:
            raise UserError(f"{self._path} holds answers of another test; name another file with --answers")

    def begin(self, session: str) -> None:
        with self._open() as database:
            database.execute("INSERT INTO sessions VALUES (?)", (session,))

    def knows(self, session: str) -> bool:
        with self._open() as database:
            return database.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None

    def done(self, session: str) -> set[int]:
        """The trials a session has answered."""
        with self._open() as database:
            rows = database.execute("SELECT trial FROM answers WHERE session = ?", (session,))
            return {number for (number,) in rows}

    def add(
        self,
        session: str,
        number: int,
        trial: Trial,
        preference: str | None = None,
        quality: int | None = None,
        relevance: int | None = None,
    ) -> bool:
        """Keep an answer; False if the trial was answered before, and nothing changes."""
        row = (session, number, trial.kind, trial.item, json.dumps(trial.systems), json.dumps(trial.expected))
        with self._open() as database:
            added = database.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, preference, quality, relevance),
            )
            return added.rowcount == 1

    def all(self) -> list[Answer]:
        """Every answer, by session and trial."""
        with self._open() as database:
            rows = database.execute("SELECT * FROM answers ORDER BY session, trial").fetchall()
        return [
            Answer(session, trial, kind, item, tuple(json.loads(systems)), json.loads(expected), *given)
            for session, trial, kind, item, systems, expected, *given in rows
        ]

    def number_of_trials(self) -> int:
        """Trials of a session of this test."""
        with self._open() as database:
            row = database.execute("SELECT content FROM test").fetchone()
        if row is None:
            raise UserError(f"{self._path} holds no test; start one with: ssmttm listen FOLDER...")
        settings = json.loads(row[0])["settings"]
        return settings["pairs"] + settings["ratings"] + settings["anchors"] + 2 * settings["checks"]
