"""What goes in and out over HTTP, as pydantic models: they are the OpenAPI document too."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmttm.generation.request import MAX_GUIDANCE, MAX_STEPS, MAX_TEMPERATURE, MAX_TOP_K
from ssmttm.generation.sampling import MAX_SEED

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg"}


class MusicRequest(BaseModel):
    """One clip. Fields left out take the model's defaults; unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"prompt": "calm piano in a minor key, slow", "seconds": 10, "seed": 1}]},
    )

    prompt: str = Field(description="what the music should be like", min_length=1)
    seconds: float = Field(10.0, gt=0, description="length of the clip; the model sets the upper limit")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same seed, same audio; drawn when left out")
    guidance: float | None = Field(None, ge=0, le=MAX_GUIDANCE, description="how closely to follow the prompt")
    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE, description="0: always the likeliest code")
    top_k: int | None = Field(None, ge=0, le=MAX_TOP_K, description="draw among the k likeliest codes; 0: all")
    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="sampling steps of the second stage")
    format: Literal["wav", "flac", "ogg"] = "wav"


class Model(BaseModel):
    id: str
    sample_rate: int
    max_seconds: float
    max_prompt_chars: int
    defaults: dict[str, int | float]


class ModelList(BaseModel):
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"]


class Error(BaseModel):
    """Every answer that is not a success: one line that names the input and the remedy."""

    error: str
