"""One decoding step as a CUDA graph: launched as a whole, it spares the hundreds of kernel launches that otherwise
take longer than the kernels. Shapes: R rows, K codebooks, V codes, D width."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ssmttm.model.lm import LMState, MusicLM

logger = logging.getLogger(__name__)


class StepGraph:
    """`lm.step` for one stream's state, captured once and replayed. The state is that of the stream: it goes on from
    where it was at capture, and the logits of a step are overwritten by the next."""

    def __init__(self, lm: MusicLM, state: LMState):
        device = state.position_B.device
        self._tokens_RK = torch.zeros(len(state.position_B), lm.config.num_codebooks, dtype=torch.long, device=device)
        self._graph = torch.cuda.CUDAGraph()
        shape = len(state.position_B), lm.config.width
        self._controls_RD = torch.zeros(shape, device=device) if lm.inputs.channels else None
        with torch.cuda.graph(self._graph):  # records, and runs nothing
            self._logits_RKV, _ = lm.step(self._tokens_RK, state, self._controls_RD)

    def __call__(self, tokens_RK: Tensor, controls_RD: Tensor | None = None) -> Tensor:
        """Feed one step's codes [R, K] and what controls add [R, D]: logits [R, K, V] of the next step."""
        self._tokens_RK.copy_(tokens_RK)
        if self._controls_RD is not None and controls_RD is not None:
            self._controls_RD.copy_(controls_RD)
        self._graph.replay()
        return self._logits_RKV


def capture(lm: MusicLM, state: LMState) -> StepGraph | None:
    """The graph of a step from a state that has been stepped before (which loads all kernels); None where there is no
    CUDA, where the state grows, and, with a warning, where capturing fails."""
    if state.position_B.device.type != "cuda" or not lm.fixed_state:
        return None
    try:
        return StepGraph(lm, state)
    except RuntimeError as error:
        logger.warning("steps run one kernel after another: %s", " ".join(str(error).split())[:200])
        return None
