"""Steps as CUDA graphs: where there is none, and that they are the steps."""

import pytest
import torch
from batches import text_of

from ssmttm.config import Stage1Config
from ssmttm.model.lm import MusicLM
from ssmttm.model.step_graph import capture


def prefilled(backbone="prefix_simba", device="cpu"):
    torch.manual_seed(0)
    config = Stage1Config(backbone=backbone, width=64, layers=2, head_dim=16, state_size=16, codebook_features=False)
    lm = MusicLM(config, 32, {"text": 8}).eval().to(device)
    mask, null = torch.ones(2, 5, dtype=torch.bool), torch.tensor([False, True])
    return lm, text_of(torch.randn(2, 5, 8), mask, torch.randn(2, 8), null).to(device)


@torch.inference_mode()
def test_without_cuda_there_is_none():
    lm, text = prefilled()
    assert capture(lm, lm.prefill(text)[1]) is None


@pytest.mark.parametrize(
    ("backbone", "fixed"),
    [("prefix_simba", True), ("prefix_mamba", True), ("cross_simba", True), ("prefix_transformer", False)],
)
@torch.inference_mode()
def test_state_spaces_have_a_state_of_fixed_size(backbone, fixed):
    assert prefilled(backbone)[0].fixed_state is fixed


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["prefix_simba", "cross_simba"])
@torch.inference_mode()
def test_a_replayed_graph_is_the_step(backbone):
    lm, text = prefilled(backbone, "cuda")
    _, state = lm.prefill(text)
    _, other = lm.prefill(text)
    graph = capture(lm, other)
    assert graph is not None
    for code in range(20):
        tokens = torch.full((2, 1), code, device="cuda")
        logits, state = lm.step(tokens, state)
        torch.testing.assert_close(graph(tokens), logits, rtol=1e-4, atol=1e-4)
