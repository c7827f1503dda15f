"""Typed, frozen configuration: what keys there are (`sections`), where values come from (`loading`), and the command
line of the jobs (`command_line`).
"""

from ssmttm.config.command_line import help_on_keys, inside_ray_job, parse_arguments, with_absolute_paths
from ssmttm.config.loading import from_dict, load, preset_names, with_overrides
from ssmttm.config.sections import (
    CHANGEABLE,
    SECTIONS,
    CodecConfig,
    Config,
    CorpusConfig,
    EvaluateConfig,
    Facts,
    GenerationConfig,
    JobName,
    Section,
    Stage1Config,
    Stage2Config,
    TextConfig,
    TrackingConfig,
    TrainConfig,
    VocoderConfig,
    changeable,
    full_name,
)

__all__ = [
    "CHANGEABLE",
    "SECTIONS",
    "CodecConfig",
    "Config",
    "CorpusConfig",
    "EvaluateConfig",
    "Facts",
    "GenerationConfig",
    "JobName",
    "Section",
    "Stage1Config",
    "Stage2Config",
    "TextConfig",
    "TrackingConfig",
    "TrainConfig",
    "VocoderConfig",
    "changeable",
    "from_dict",
    "full_name",
    "help_on_keys",
    "inside_ray_job",
    "load",
    "parse_arguments",
    "preset_names",
    "with_absolute_paths",
    "with_overrides",
]
