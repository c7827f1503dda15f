"""What goes in and out over HTTP, as pydantic models: they are the OpenAPI document too."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ssmttm.audio import Audio
from ssmttm.conditions.handles import MOST_NOTES, WORDS
from ssmttm.engine.request import BOUNDS, MOST_PROMPTS, WEIGHT, MusicRequest
from ssmttm.errors import UserError

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "mp3": "audio/mpeg"}
MAX_VARIATIONS = 8
MAX_PROMPT_CHARS = 10_000  # the model's own limit, which is lower, is told by /v1/models
PROMPT = "calm piano in a minor key, slow"
NESTED = ("controls", "melody", "prompts")  # fields that are JSON where a form holds text alone

Format = Literal["wav", "flac", "ogg", "mp3"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


def _asked(name: str, default: Any = None) -> Any:
    """A field of `MusicRequest` with its meaning and bounds."""
    bounds = BOUNDS[name]
    low = {"gt" if bounds.above else "ge": bounds.low}
    return Field(default, le=bounds.high, description=bounds.help, **low)


def _word(name: str, **bounds: Any) -> Any:
    """A field of `MusicRequest` that is no number."""
    told = WORDS[name]
    return Field(None, description=told.takes, examples=[told.example], **bounds)


class Weighted(BaseModel):
    """A prompt among others. Weights are divided by their sum."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    text: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    weight: float = Field(1.0, gt=WEIGHT.low, le=WEIGHT.high, description=WEIGHT.help)


class ClipForm(BaseModel):
    """One clip. Fields left out take the model's defaults; unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        strict=True,  # `false` is no number, and "10" none either
        json_schema_extra={"examples": [{"prompt": PROMPT, "seconds": 120, "seed": 1, "format": "ogg"}]},
    )

    prompt: str | None = Field(
        None, description="what the music should be like", min_length=1, max_length=MAX_PROMPT_CHARS, examples=[PROMPT]
    )
    prompts: list[Weighted] = Field(
        [],
        description="more prompts, each with a weight beside the others'; that of prompt is 1",
        max_length=MOST_PROMPTS,
        examples=[[{"text": "techno", "weight": 0.7}, {"text": "solo piano", "weight": 0.3}]],
    )
    negative: str | None = Field(
        None, description="what to lead away from", min_length=1, max_length=MAX_PROMPT_CHARS, examples=["vocals"]
    )
    seconds: float | None = _asked("seconds")
    seed: int | None = _asked("seed")
    guidance: float | None = _asked("guidance")
    control_guidance: float | None = _asked("control_guidance")
    temperature: float | None = _asked("temperature")
    top_k: int | None = _asked("top_k")
    top_p: float | None = _asked("top_p")
    steps: int | None = _asked("steps")
    bpm: float | None = _asked("bpm")
    meter: int | str | None = _word("meter")
    bars: float | None = _asked("bars")
    chords: str | None = _word("chords", max_length=2_000)
    key: str | None = _word("key", max_length=100)
    drums: bool | None = _word("drums")
    bass: bool | None = _word("bass")
    density: float | None = _asked("density")
    brightness: float | None = _asked("brightness")
    melody: list[list[float]] | None = _word("melody", max_length=MOST_NOTES)
    controls: dict[str, Any] | list[dict[str, Any]] = Field(
        {},
        description="values by the name of a control, or changes in time of what is asked by the fields above",
        examples=[[{"at": "bar 5", "drums": False}, {"at": 12.5, "key": "D minor"}]],
    )
    format: Format = "wav"

    @field_validator("controls")
    @classmethod
    def _controls_can_be_told_again(cls, value: Any) -> Any:
        # Their values are the conditioners' business, but they are kept and shown with the job.
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise ValueError("give finite numbers and valid Unicode text, not nested deeply") from None
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> ClipForm:
        if self.prompt is None and not self.prompts:
            raise ValueError(f"prompt: it is missing; give {type(self).model_fields['prompt'].description}")
        try:
            seconds = self.request(0).seconds
        except UserError as error:
            raise ValueError(str(error)) from None
        if self.bars is None:
            self.seconds = seconds
        return self

    def request(self, seed: int, audio: Audio | None = None) -> MusicRequest:
        """What the engine is asked for, with this seed in the place of the form's."""
        names = {one.name for one in fields(MusicRequest)} - {"seed", "audio"}
        values = self.model_dump(include=names)
        return MusicRequest(**{**values, "prompt": self.prompt or ""}, seed=seed, audio=audio)


class MusicForm(ClipForm):
    """One clip, or several variations of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": PROMPT, "seconds": 10, "seed": 1},
                {"prompt": PROMPT, "seconds": 10, "variations": 3, "format": "flac"},
                {"prompt": PROMPT, "seconds": 60, "stream": True},
            ]
        }
    )

    variations: int = Field(
        1, ge=1, le=MAX_VARIATIONS, description="clips of consecutive seeds; more than one are answered as JSON"
    )
    stream: bool = Field(False, description="send the audio while it is being made (one clip, as a WAV file)")
    answer: Literal["file", "json"] = Field("file", description="json: the file in base64 beside what made it")

    @model_validator(mode="after")
    def _streams_are_files(self) -> MusicForm:
        if self.stream and (self.format, self.variations, self.answer) != ("wav", 1, "file"):
            raise ValueError("stream gives one WAV file; leave out format, variations and answer")
        return self


class Upload(MusicForm):
    """Audio to be continued, as a form; `seconds` are those that follow it."""

    # Forms hold text alone, so here "10" is a number.
    model_config = ConfigDict(json_schema_extra={"examples": []}, arbitrary_types_allowed=True, strict=False)

    audio: UploadFile = Field(description="a WAV, FLAC, OGG or MP3 file")

    @field_validator(*NESTED, mode="before")
    @classmethod
    def _nested_are_json(cls, value: Any) -> Any:
        text = value[0] if isinstance(value, list) and len(value) == 1 else value  # lists may be named again and again
        if not isinstance(text, str):
            return value
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError("give a JSON object or list") from None


class Provenance(BaseModel):
    """What made a file; the file says the same in its comment."""

    ai_generated: Literal[True]
    notice: str
    model: str
    prompt: str
    prompt_sha256: str
    seed: int
    asked: dict[str, Any] = Field({}, description="what was asked for besides text, where anything was")
    software: str


class ClipFile(BaseModel):
    """A file and what made it."""

    media_type: str
    seconds: float
    provenance: Provenance
    data: str = Field(description="the file in base64")


class ClipList(BaseModel):
    data: list[ClipFile]


class Job(BaseModel):
    """A clip that is made in the background."""

    id: str = Field(examples=["3f0c4e5b7d984c1e8a6b2d10c7f4e9aa"])
    state: JobState
    progress: float = Field(ge=0, le=1, description="share of the audio that is made")
    seed: int
    request: ClipForm
    error: str | None = Field(None, description="why it failed")
    attempts: int = Field(description="how often it was begun; more than once after an interruption")
    created: float = Field(description="seconds since 1970")
    expires: float = Field(description="when job and file are forgotten, in seconds since 1970")


class Model(BaseModel):
    id: str
    sample_rate: int
    max_seconds: float
    max_prompt_chars: int
    max_prompt_tokens: int
    formats: list[str]
    defaults: dict[str, int | float | None]
    asked_by: dict[str, Any] = Field(
        description="fields of a request that say what the music is like, those that this model knows, with an example"
    )


class ModelList(BaseModel):
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"]


class Error(BaseModel):
    """Every answer that is not a success: one line that names the input and the remedy."""

    error: str
