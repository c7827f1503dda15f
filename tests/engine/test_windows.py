from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import piece_of

from ssmttm.conditions.text import collate_text
from ssmttm.config import GenerationConfig
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Finished, Piece
from ssmttm.engine.windows import Rendering, Window, WindowRenderer
from ssmttm.errors import UserError
from ssmttm.evaluation import seams

WINDOWS = GenerationConfig(window_frames=24, context_frames=8, lookahead_frames=4)  # hop 12


@pytest.fixture(scope="module")
def renderer(generator: Generator) -> WindowRenderer:
    return WindowRenderer(generator.bundle.completer, generator.bundle.codec, WINDOWS)


def make_pieces(generator: Generator, seeds: tuple[int, ...], frames: int, prompt: str = "calm piano") -> list[Piece]:
    conditions = collate_text(generator.bundle.text_encoder.encode([prompt]))
    return [piece_of(conditions, frames, seed, steps=3) for seed in seeds]


def make_codes(generator: Generator, clips: int, frames: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    return torch.randint(generator.bundle.codec.codebook_size, (clips, frames), generator=random)


def frame_by_frame(codes_BT: torch.Tensor) -> Iterator[torch.Tensor]:
    return iter(codes_BT[:, None].unbind(dim=2))


def fine_of(
    renderer: WindowRenderer, pieces: list[Piece], codes_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """The fine latents that `render` decodes."""
    decoded: list[torch.Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(renderer, "decode", lambda done, *_, **__: (decoded.append(done.fine_BDT), None))
        list(renderer.render(frame_by_frame(codes_BT), pieces))
    return torch.cat(decoded, dim=2)


@pytest.mark.parametrize("frames", [1, 11, 12, 13, 24, 29, 36])
def test_every_frame_is_heard_once(generator: Generator, renderer: WindowRenderer, frames: int) -> None:
    codes = make_codes(generator, 2, frames)
    pieces = list(renderer.render(frame_by_frame(codes), make_pieces(generator, (1, 2), frames)))
    assert torch.cat(pieces, dim=2).shape == (2, 1, frames * generator.bundle.codec.hop_length)
    assert len(pieces) == -(-frames // renderer.hop)


def test_audio_is_the_codec_applied_to_all_latents_at_once(
    generator: Generator, renderer: WindowRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, pieces, codec = make_codes(generator, 1, 40), make_pieces(generator, (1,), 40), generator.bundle.codec
    streamed = torch.cat(list(renderer.render(frame_by_frame(codes), pieces)), dim=2)
    fine = fine_of(renderer, pieces, codes, monkeypatch)
    with torch.inference_mode():
        assert torch.equal(streamed, codec.decode(codec.coarse(codes), fine))


def test_windows_have_a_bounded_size(
    generator: Generator, renderer: WindowRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    sample = generator.bundle.completer.sample

    def record(coarse: torch.Tensor, *args: object, known_frames: int, **rest: object) -> torch.Tensor:
        sizes.append((coarse.shape[2], known_frames))
        return sample(coarse, *args, known_frames=known_frames, **rest)

    monkeypatch.setattr(generator.bundle.completer, "sample", record)
    codes = make_codes(generator, 1, 100)
    list(renderer.render(frame_by_frame(codes), make_pieces(generator, (1,), 100)))
    assert sizes[0] == (16, 0)  # no past
    assert sizes[1:-2] == [(24, 8)] * (len(sizes) - 3)
    assert sizes[-1] == (8 + 4, 8)  # no future


def test_codes_are_taken_no_earlier_than_needed(generator: Generator, renderer: WindowRenderer) -> None:
    taken = []

    def codes() -> Iterator[torch.Tensor]:
        for code in frame_by_frame(make_codes(generator, 1, 100)):
            taken.append(1)
            yield code

    pieces = renderer.render(codes(), make_pieces(generator, (1,), 100))
    next(pieces)
    assert len(taken) == renderer.hop + renderer.lookahead
    next(pieces)
    assert len(taken) == 2 * renderer.hop + renderer.lookahead


def test_the_first_windows_are_short_and_double(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WINDOWS.model_copy(update={"first_frames": 3})
    renderer = WindowRenderer(generator.bundle.completer, generator.bundle.codec, config)
    codes, owned = make_codes(generator, 1, 40), []
    complete, taken = renderer.complete, frame_by_frame(codes)
    monkeypatch.setattr(renderer, "complete", lambda windows: (owned.append(windows[0].owned), complete(windows))[1])
    pieces = renderer.render(taken, make_pieces(generator, (1,), 40))
    next(pieces)
    assert len(list(taken)) == 40 - 3 - renderer.lookahead
    list(renderer.render(frame_by_frame(codes), make_pieces(generator, (1,), 40)))
    assert owned[1:] == [3, 6, 12, 12, 7]
    assert renderer.portions == (3 + renderer.lookahead, 6, 12, 12)
    rendering, wanted = Rendering(renderer, make_pieces(generator, (1,), 200)), []
    for _ in range(6):
        wanted.append(rendering.wanted)
        rendering.render([make_codes(generator, 1, rendering.wanted)[:, None]])
    assert wanted == [*renderer.portions, 12, 12]
    borders = seams.borders(39, renderer.hop, renderer.first_hop)
    assert np.flatnonzero(borders).tolist() == [2, 8, 20, 32]  # junction 0 is the first frame's end


def test_windows_of_several_pieces_are_completed_together(generator: Generator) -> None:
    """At other places, with other texts and seeds; guided; up to rounding."""
    config = WINDOWS.model_copy(update={"stage2_guidance": 1.5})
    renderer = WindowRenderer(generator.bundle.completer, generator.bundle.codec, config)
    codes, fine = make_codes(generator, 3, 24), torch.randn(3, generator.bundle.codec.fine_dim, 8)
    windows = []
    for row, prompt in enumerate(("calm piano", "techno", "a slow waltz for strings and harp, in D major")):
        context, pieces = (
            Finished(codes[row : row + 1, :8], fine[row : row + 1]),
            make_pieces(generator, (row,), 0, prompt),
        )
        windows.append(Window(context, codes[row : row + 1, None, 8:], pieces, first_frame=100 * row, owned=12))
    assert len({window.shape for window in windows}) == 1
    for window, together in zip(windows, renderer.complete(windows), strict=True):
        (alone,) = renderer.complete([window])
        assert torch.equal(together.codes_BT, alone.codes_BT)
        torch.testing.assert_close(together.fine_BDT, alone.fine_BDT, rtol=1e-4, atol=1e-4)


def test_finished_frames_stay_as_they_are(generator: Generator, renderer: WindowRenderer) -> None:
    codes, pieces = make_codes(generator, 1, 20), make_pieces(generator, (1,), 20)
    context = Finished(codes[:, :8], torch.randn(1, generator.bundle.codec.fine_dim, 8))
    (done,) = renderer.complete([Window(context, codes[:, None, 8:], pieces, first_frame=8, owned=9)])
    assert torch.equal(done.codes_BT, codes[:, :17])
    assert torch.equal(done.fine_BDT[..., :8], context.fine_BDT)
    other = Finished(context.codes_BT, context.fine_BDT + 1)
    (changed,) = renderer.complete([Window(other, codes[:, None, 8:], pieces, first_frame=8, owned=9)])
    assert not torch.equal(done.fine_BDT[..., 8], changed.fine_BDT[..., 8])  # and the new ones listen to them


def test_fresh_noise_belongs_to_its_absolute_frame(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ancestral solver's noise for a frame is the same in every window that the frame is in."""
    config = WINDOWS.model_copy(update={"solver": "ancestral"})
    renderer, drawn = WindowRenderer(generator.bundle.completer, generator.bundle.codec, config), []
    sample = generator.bundle.completer.sample

    def record(*args: object, fresh: Callable[[int], torch.Tensor], **rest: object) -> torch.Tensor:
        drawn.append((fresh(0), fresh(1)))
        return sample(*args, fresh=fresh, **rest)

    monkeypatch.setattr(generator.bundle.completer, "sample", record)
    codes, pieces = make_codes(generator, 1, 36), make_pieces(generator, (1,), 36)
    assert all(torch.isfinite(audio_B1N).all() for audio_B1N in renderer.render(frame_by_frame(codes), pieces))
    first, second = drawn[:2]  # absolute frames 0-15 and, with 8 of context, 4-27
    assert torch.equal(first[0][..., 4:], second[0][..., :12])
    assert not torch.equal(first[0], first[1])


def test_seams_are_like_any_other_place(
    generator: Generator, renderer: WindowRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change from frame to frame has the same energy across window borders as within windows."""
    codes, pieces = make_codes(generator, 8, 12 * 40), make_pieces(generator, tuple(range(8)), 12 * 40)
    fine = fine_of(renderer, pieces, codes, monkeypatch)
    change = fine.diff(dim=2).square().mean(dim=(0, 1))
    at_border = torch.arange(1, len(change) + 1) % renderer.hop == 0
    assert 0.8 < float(change[at_border].mean() / change[~at_border].mean()) < 1.25


def test_windows_come_near_one_large_window(
    generator: Generator, renderer: WindowRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, pieces = make_codes(generator, 2, 48), make_pieces(generator, (1, 2), 48)
    one = WindowRenderer(generator.bundle.completer, generator.bundle.codec, GenerationConfig(window_frames=200))
    whole, windowed = (fine_of(r, pieces, codes, monkeypatch) for r in (one, renderer))
    assert float((whole - windowed).square().mean() / whole.square().mean()) < 0.1


def test_history_is_heard_first(generator: Generator, renderer: WindowRenderer) -> None:
    codes, (piece,) = make_codes(generator, 1, 30), make_pieces(generator, (1,), 20)
    history = Finished(codes[:, :10], torch.zeros(1, generator.bundle.codec.fine_dim, 10))
    piece = replace(piece, primer_KT=codes[:, :10].numpy(), history=history)
    heard = renderer.context + 20
    assert (
        torch.cat(list(renderer.render(frame_by_frame(codes[:, 10:]), [piece])), dim=2).shape[2]
        == heard * generator.bundle.codec.hop_length
    )


def test_a_stage_two_without_steps_is_refused(generator: Generator) -> None:
    with pytest.raises(UserError, match=r"generation\.steps=null, but stage 2 is sampled in steps"):
        WindowRenderer(generator.bundle.completer, generator.bundle.codec, GenerationConfig(steps=None))


def test_a_window_without_room_is_refused(generator: Generator) -> None:
    config = GenerationConfig(window_frames=36, context_frames=24, lookahead_frames=12)
    with pytest.raises(UserError, match=r"generation\.window_frames=36 must exceed"):
        WindowRenderer(generator.bundle.completer, generator.bundle.codec, config)
