"""Compiled decoding: the same numbers up to rounding, and a clean way back."""

import logging

import pytest
import torch

from ssmttm.conditions.text import collate_text
from ssmttm.engine.generator import Generator


@pytest.mark.slow
@pytest.mark.timeout(300)
@torch.inference_mode()
def test_compiled_steps_agree_with_eager_ones(bundle_uri: str) -> None:
    generator = Generator.load(bundle_uri)
    lm, text = generator.bundle.lm, collate_text(generator.bundle.text_encoder.encode(["calm piano"]))
    logits, state = lm.prefill(text)
    eager = [logits]
    for code in range(5):
        logits, state = lm.step(torch.full((1, 1), code), state)
        eager.append(logits)
    assert generator.compile()
    logits, state = lm.prefill(text)
    compiled = [logits]
    for code in range(5):
        logits, state = lm.step(torch.full((1, 1), code), state)
        compiled.append(logits)
    torch.testing.assert_close(torch.stack(compiled), torch.stack(eager), rtol=1e-4, atol=1e-4)
    first, second = (generator.generate("calm piano", 1.0, seed=1).samples for _ in range(2))
    assert (first == second).all()


def test_without_a_compiler_decoding_stays_as_it_is(
    bundle_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    generator = Generator.load(bundle_uri)
    expected = generator.generate("calm piano", 1.0, seed=1).samples
    monkeypatch.setattr(torch, "compile", lambda _, **__: broken)
    with caplog.at_level(logging.WARNING):
        assert not generator.compile()
    assert "stays uncompiled: no C++ compiler" in caplog.text
    assert (generator.generate("calm piano", 1.0, seed=1).samples == expected).all()
