"""Clips and recordings as files: what systems write, what any folder of audio is read as."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.opener import AUDIO_EXTENSIONS

LIST_NAME = "clips.json"


@dataclass(frozen=True)
class Clip:
    """A clip of a system.

    Attributes:
        id: of the prompt, or the file's name without extension.
        audio: URI of the file.
        prompt: what it was made for, if that is known.
        seed: it was made with.
        seconds, wall_s: its length, and the wall-clock seconds it took to make.
    """

    id: str
    audio: str
    prompt: str | None = None
    seed: int | None = None
    seconds: float | None = None
    wall_s: float | None = None


@dataclass(frozen=True)
class Recording:
    """A recording, or a part of it: its file, first second and length in seconds (None: to its end)."""

    audio: str
    start_s: float = 0.0
    seconds: float | None = None

    def read(self, sample_rate: int) -> Audio:
        """Mono at `sample_rate` (Hz).

        Raises:
            UserError: if the file is missing or cannot be decoded.
        """
        return audio.resample(audio.to_mono(audio.read(self.audio, self.start_s, self.seconds)), sample_rate)


def write_list(folder: str, clips: Sequence[Clip], name: str) -> None:
    """Write the folder's clips.json; file names in it are relative to the folder."""
    entries = [{**asdict(clip), "audio": posixpath.basename(clip.audio)} for clip in clips]
    storage.write_json(storage.join(folder, LIST_NAME), {"name": name, "clips": entries})


def read_folder(folder: str, prompts: Mapping[str, str] | None = None) -> list[Clip]:
    """The clips of a folder, in the order of its clips.json or else of their names.

    A clip's prompt is what clips.json or `prompts` (by id) says, else a text file of its name (`song.txt`), else what
    its metadata says.

    Raises:
        UserError: if there is no audio, or clips.json names a file outside the folder or one that is not there.
    """
    names = storage.list_names(folder)
    if LIST_NAME in names:
        return [_listed(folder, entry, names) for entry in storage.read_json(storage.join(folder, LIST_NAME))["clips"]]
    files = [name for name in names if name.rpartition(".")[2].lower() in AUDIO_EXTENSIONS]
    if not files:
        raise UserError(f"{folder} holds no audio; clips end in {', '.join(sorted(AUDIO_EXTENSIONS))}")
    clips = []
    for name in files:
        stem, uri = name.rsplit(".", 1)[0], storage.join(folder, name)
        prompt = (prompts or {}).get(stem)
        if prompt is None and f"{stem}.txt" in names:
            prompt = storage.read_text(storage.join(folder, f"{stem}.txt")).strip().split("\n")[0]
        clips.append(Clip(stem, uri, prompt or _prompt_inside(uri)))
    return clips


def _listed(folder: str, entry: dict, names: Sequence[str]) -> Clip:
    if entry["audio"] not in names:
        raise UserError(f"{storage.join(folder, LIST_NAME)} names {entry['audio']}, which is not in the folder")
    return Clip(**{**entry, "audio": storage.join(folder, entry["audio"])})


def _prompt_inside(uri: str) -> str | None:
    try:
        prompt = audio.read_metadata(uri).get("prompt")
    except (RuntimeError, AttributeError):  # no audio, which reading it will say; or a comment that is no object
        return None
    return prompt if isinstance(prompt, str) and prompt else None
