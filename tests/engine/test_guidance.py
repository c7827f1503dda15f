"""Several prompts, a negative one, controls with a guidance of their own: rows of one batch, against each piece alone
in the plain decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoder import Decoder
from test_slots import run
from torch import Tensor

from ssmttm.conditions.base import Conditions, ControlConditioner, Excerpt, FrameControl
from ssmttm.conditions.registry import CONDITIONERS
from ssmttm.conditions.text import collate_text, token_states
from ssmttm.config import GenerationConfig, Stage1Config
from ssmttm.engine.piece import MOST_ROWS, Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.slot_engine import SlotEngine
from ssmttm.engine.slots import NEVER, Rereading, SlotBatch
from ssmttm.errors import UserError
from ssmttm.model.lm import MusicLM

V, TEXT, TOKENS = 24, 6, 9


class Height(ControlConditioner):
    name, channels = "height", 2

    def measure(self, excerpt: Excerpt) -> np.ndarray | None:
        return None

    def encode(self, value: Any, frames: int, frame_rate: float) -> np.ndarray:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONDITIONERS, "height", Height)


def make_lm(backbone: str = "prefix_simba", K: int = 1) -> MusicLM:
    torch.manual_seed(0)
    config = Stage1Config.model_validate(
        {"backbone": backbone, "width": 32, "layers": 2, "state_size": 8, "head_dim": 16, "chunk_size": 8}
        | {"num_codebooks": K, "codebook_features": False, "dropout": 0.0}
    )
    lm = MusicLM(config, V, {"text": TEXT, "height": 2}).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return lm


def states(random: np.random.Generator) -> np.ndarray:
    return random.standard_normal((int(random.integers(1, TOKENS + 1)), TEXT)).astype(np.float16)


ASKED: list[dict[str, Any]] = [
    {},
    {"guidance": 1.0},
    {"prompts": [("b", 0.3)]},
    {"prompts": [("b", 2), ("c", 1), ("d", 1)], "negative": "n"},
    {"prompts": [("b", 1)], "guidance": 1.0},
    {"negative": "n", "guidance": 0.0},
    {"control_guidance": 1.0},
    {"control_guidance": 3.0, "negative": "n"},
    {"control_guidance": 0.5, "guidance": 1.0, "prompts": [("b", 1)]},
    {"control_guidance": 4.0, "prompts": [("b", 1), ("c", 2), ("d", 3)], "negative": "n"},
]


def make_piece(number: int, frames: int, asked: dict[str, Any]) -> Piece:
    random = np.random.default_rng(number)
    fields = {"guidance": 2.0, "temperature": 0.9, "top_k": 12, "controls": {"height": 1}} | asked
    request = MusicRequest("a", seed=number, **fields).filled(GenerationConfig())
    prompts = len(request.texts)
    control_1CT = random.standard_normal((2, frames)).astype(np.float32)
    control_1CT[:, random.random(frames) < 0.2] = np.nan
    conditions = {"text": token_states([states(random) for _ in range(prompts)])}
    conditions["height"] = FrameControl.of([control_1CT] * prompts)  # type: ignore[assignment]
    negative = None if request.negative is None else collate_text([states(random)])
    return Piece(request, Conditions(conditions), frames, negative=negative)


def alone(lm: MusicLM, piece: Piece, rereading: Rereading = NEVER) -> np.ndarray:
    """The formula as it is written down, over all of its terms."""
    asked, request = piece.conditions, piece.request
    prompts = [asked.rows([row]) for row in range(len(asked))]
    text = prompts[0].as_null()["text"] if piece.negative is None else piece.negative["text"]
    controls = Conditions({"text": text, "height": prompts[0]["height"]})
    nothing = Conditions({"text": text, "height": prompts[0].as_null()["height"]})
    g, h = request.guidance, request.guidance if request.control_guidance is None else request.control_guidance

    def combine(*logits: Tensor) -> Tensor:
        *c, k, u = logits
        mixed = sum(weight * one for weight, one in zip(piece.weights, c, strict=True))
        return u + h * (k - u) + g * (mixed - k)

    rows = [*prompts, controls, nothing]
    decoder = Decoder(lm, asked, [piece.seed], request.sampling, rereading, rows, combine)
    return torch.stack(list(decoder.frames(piece.frames)), dim=2)[0].numpy()


@pytest.mark.parametrize("rereading", [NEVER, Rereading(5, 5)])
@pytest.mark.parametrize(
    ("backbone", "K"), [("prefix_simba", 1), ("prefix_simba", 3), ("cross_simba", 1), ("prefix_transformer", 1)]
)
def test_pieces_of_every_kind_together_give_what_each_gives_alone(backbone: str, K: int, rereading: Rereading) -> None:
    lm = make_lm(backbone, K)
    pieces = [make_piece(number, 14, asked) for number, asked in enumerate(ASKED)]
    together = SlotBatch.of(lm, pieces, rereading).read(14).numpy()
    for piece, codes_KT in zip(pieces, together, strict=True):
        assert np.array_equal(codes_KT, alone(lm, piece, rereading))


@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(3, 6))
@settings(max_examples=8, deadline=None)
def test_who_comes_and_goes_changes_no_bit(seed: int, slots: int) -> None:
    random = np.random.default_rng(seed)
    lm, kinds = make_lm(), random.permutation(len(ASKED))[:3]
    arrivals = [(int(random.integers(0, 9)), make_piece(int(kind), 9, ASKED[kind])) for kind in kinds]

    def codes(them: list[tuple[int, Piece]], slots: int) -> list[np.ndarray]:
        return run(SlotBatch(lm, slots, TOKENS, deterministic=True), them)

    for (_, piece), mine in zip(arrivals, codes(arrivals, 9), strict=True):
        assert np.array_equal(codes([(0, piece)], 9)[0], mine)
        assert np.array_equal(alone(lm, piece), mine)


def test_an_engine_takes_no_more_than_its_rows_hold() -> None:
    """Two slots, and pieces of up to six rows: whoever does not fit waits, and nobody passes by."""
    lm, most = make_lm(), []
    with SlotEngine(lm, 2, TOKENS) as engine:
        batch, step = engine._batch, engine._batch.step

        def watched() -> Any:
            most.append(len(batch._owners))
            return step()

        batch.step = watched  # type: ignore[method-assign]
        pieces = [make_piece(number, 12, ASKED[number % len(ASKED)]) for number in (9, 0, 3, 9, 1, 2)]
        made = [engine.submit(piece) for piece in pieces]
        codes = [stream.read(12) for stream in made]
    assert max(piece.request.rows for piece in pieces) == max(most) == MOST_ROWS
    for piece, codes_KT in zip(pieces, codes, strict=True):
        assert np.array_equal(codes_KT, alone(lm, piece))


def test_rows_are_those_that_the_formula_needs() -> None:
    rows = [MusicRequest("a", **{"guidance": 2.0, "controls": {"x": 1}} | asked).rows for asked in ASKED]
    assert rows == [2, 1, 3, 5, 2, 2, 2, 3, 4, 6]
    assert MusicRequest("a", guidance=2.0, control_guidance=2.0).rows == 2


def test_prompts_are_weighed_by_their_share() -> None:
    assert MusicRequest("a").texts == (("a", 1.0),)
    assert MusicRequest(prompts=[("a", 7), {"text": "b", "weight": 3}]).texts == (("a", 0.7), ("b", 0.3))
    assert MusicRequest("a", prompts=[{"text": "b"}]).texts == (("a", 0.5), ("b", 0.5))
    request = MusicRequest(prompts=[("techno", 0.7), ("piano", 0.3)], negative="vocals")
    assert request.title == "techno (0.7) + piano (0.3)"
    told = {"prompt": request.title, **request.told}
    assert MusicRequest(**told) == request


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompts": [("b", 1)] * 4}, "5 prompts are asked for; give up to 4, the first one included"),
        ({"prompts": "techno"}, r"prompts holds 'techno'; give texts with weights, as \('techno', 0.7\)"),
        ({"prompts": [(3, 1)]}, r"prompts holds \(3, 1\); give texts"),
        ({"prompts": [("b", 0)]}, "the weight of 'b' is 0; give a number above 0 and up to 1000"),
        ({"prompts": [("b", True)]}, "the weight of 'b' is True; give a number above 0 and up to 1000"),
        ({"negative": "n", "guidance": 1}, "negative has no effect where guidance is 1"),
        ({"control_guidance": 2}, "control_guidance is 2, but no control is asked for; leave it out"),
    ],
)
def test_what_has_no_meaning_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MusicRequest("a", **asked).filled(GenerationConfig())
