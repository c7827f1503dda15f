"""Counted costs: the papers' sizes, and agreement with what real models of a small size hold."""

import pytest
import torch

from ssmttm import config
from ssmttm.config import Stage1Config
from ssmttm.model import costs

DAC = costs.Shape(codebook_size=1024, text_dim=768, coarse_dim=8)
SMALL = {"width": 32, "layers": 3, "state_size": 8, "head_dim": 16, "chunk_size": 8}


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("paper", 281.0), ("paper-quarter", 72.4), ("paper-transformer", 279.9), ("paper-single-stage", 297.8)],
)
def test_presets_have_the_papers_sizes(preset: str, millions: float) -> None:
    lm = costs.build(config.load(preset).stage1, DAC)
    assert costs.trainable_parameters(lm) / 1e6 == pytest.approx(millions, rel=0.005)


def test_state_bytes_are_those_of_a_real_stream_and_do_not_grow() -> None:
    settings = Stage1Config(**SMALL)
    at_10, at_100 = (costs.decode_costs(settings, DAC, context) for context in (10, 100))
    assert at_10 == at_100
    inner, layers = 2 * 32, 3
    ssm, window = inner * 8, 3 * (inner + 2 * 8)
    assert at_10.state_bytes == layers * (ssm + window) * 4
    assert at_10.guided_bytes_moved - at_10.bytes_moved == 2 * at_10.state_bytes


def test_a_transformers_state_grows_with_its_context() -> None:
    settings = Stage1Config(backbone="prefix_transformer", **SMALL)
    at_10, at_100 = (costs.decode_costs(settings, DAC, context) for context in (10, 100))
    per_frame = 2 * 3 * 32 * 4 + 3  # keys and values in fp32, and the mask
    assert at_100.state_bytes - at_10.state_bytes == 90 * per_frame


def test_layers_are_extrapolated_exactly() -> None:
    """A whole model counted at once, against one and two layers and the rest by rule."""
    settings = Stage1Config(**SMALL)
    extrapolated = costs.train_costs(settings, DAC, 40)
    lm = costs.build(settings, DAC, "cpu")
    text = costs.sample_conditions(DAC, costs.TEXT_TOKENS)
    codes = torch.zeros(1, 1, 40, dtype=torch.long)
    with costs.FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        lm(codes, text).float().sum().backward()
    assert extrapolated.flops_per_frame * 40 == counter.get_total_flops()
    assert extrapolated.fixed_bytes == 16 * costs.trainable_parameters(lm)
    assert extrapolated.bytes_per_sequence > 0


def test_training_costs_about_three_forward_passes() -> None:
    settings = Stage1Config(**{**SMALL, "width": 256, "layers": 2})
    train, decode = costs.train_costs(settings, DAC, 512), costs.decode_costs(settings, DAC, 0)
    assert 2.5 < train.flops_per_frame / decode.flops < 5  # the chunked scan does more than the step; the text is read


def test_attention_is_counted_in_training():
    """A frame costs a Transformer more the longer the sequence is, by 2 products of width x length, thrice."""
    transformer = config.load("paper-transformer").stage1.model_copy(update={"max_frames": 0})
    short, long = (costs.train_costs(transformer, DAC, frames).flops_per_frame for frames in (500, 1500))
    grown = 3 * 2 * 2 * transformer.width * 1000 * transformer.layers
    # Reading the text, the same for any length, weighs less on each frame of a longer sequence.
    assert 0.95 * grown < long - short < grown
    ssm = config.load("paper").stage1.model_copy(update={"max_frames": 0})
    first, second = (costs.train_costs(ssm, DAC, frames).flops_per_frame for frames in (512, 1536))
    assert 0.95 * first < second < first
