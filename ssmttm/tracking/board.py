"""TensorBoard event files in a run's folder; `tensorboard --logdir OUT` finds those of all runs under OUT."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from ssmttm import audio, storage
from ssmttm.errors import UserError
from ssmttm.tracking.courier import Point, UndeliverableError, UnusableError

FOLDER = "tensorboard"


class Board:
    """Receives for one run. Event files grow, which object stores do not allow: there they are written to a local
    folder, and copied whole at each checkpoint and at the end.

    Args:
        restored: as for `MlflowRun`; here what was written of later steps before is hidden.
    """

    def __init__(self, run_dir: str, restored: Callable[[], int | None]):
        self._restored = restored
        self._folder = storage.join(run_dir, FOLDER)
        self._continued = bool(storage.list_names(self._folder))
        remote = storage.is_remote(run_dir)
        self._local = tempfile.mkdtemp(prefix="ssmttm-board-") if remote else storage.local_path(self._folder)
        self._remote = remote
        self._writer: Any = None
        self._step = 0

    def _open(self) -> Any:
        """The writer, made at the first use.

        Raises:
            UnusableError: without TensorBoard.
        """
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UnusableError(str(error)) from error

            restored = self._restored() if self._continued else None
            self._writer = SummaryWriter(self._local, purge_step=None if restored is None else restored + 1)
        return self._writer

    def points(self, points: list[Point]) -> None:
        writer = self._open()
        for name, value, milliseconds, step in points:
            writer.add_scalar(name, value, step, walltime=milliseconds / 1000)
            self._step = max(self._step, step)
        writer.flush()

    def item(self, kind: str, content: Any) -> None:
        if kind == "artifact" and content.endswith(".wav"):
            self._sound(content, self._step)
        elif kind == "sample":
            self._sound(*content)
        elif kind == "checkpoint":
            self._copy()
        elif kind == "status":
            if self._writer is not None:
                self._writer.close()
            self._copy()
            if self._remote:
                shutil.rmtree(self._local)

    def _sound(self, uri: str, step: int) -> None:
        try:
            clip = audio.read(uri)
        except UserError as error:
            raise UndeliverableError(str(error)) from error
        name = uri.rsplit("/", 1)[-1].removesuffix(".wav")
        self._open().add_audio(f"samples/{name}", clip.samples[0], step, clip.sample_rate)

    def _copy(self) -> None:
        if self._remote:
            for name in storage.list_names(self._local):
                storage.write_bytes(
                    storage.join(self._folder, name), storage.read_bytes(storage.join(self._local, name))
                )
