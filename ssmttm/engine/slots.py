"""Stage 1 for many requests at once: each holds a slot, and joins and leaves the batch between any two steps.

Shapes: S slots, n members (slots in use), R rows of recurrent state (one per member, two with guidance, more with
several prompts or a guidance of the controls' own), P prompts, K codebooks, V codes, T frames. Step s of a member's
delayed sequence holds frame s - k of codebook k.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ssmttm.conditions.base import Conditions
from ssmttm.config import GenerationConfig
from ssmttm.engine.piece import MOST_ROWS, Piece
from ssmttm.engine.sampling import SamplingRows, guide, sample_each, uniform_table
from ssmttm.errors import UserError
from ssmttm.model.delay import as_beginning, shift_right
from ssmttm.model.lm import MusicLM
from ssmttm.model.slots import TILE, FixedRows, GrowingRows

Read = TypeVar("Read")
AHEAD = 64  # frames whose random numbers are drawn in one go


@dataclass(frozen=True)
class Rereading:
    """How stage 1 writes more than it was trained on: every so many steps it begins again, from the prompt and the last
    few steps. So what it has read always begins with the prompt and is no longer than in training; otherwise what the
    text said fades in the state, and music drifts.

    It begins again at step `frames + every`, and each `every` steps from there, with the last `frames` steps; never
    where `every` is 0.
    """

    every: int = 0
    frames: int = 0

    @classmethod
    def of(cls, config: GenerationConfig) -> Rereading:
        return cls(config.reread_every, config.reread_frames)

    def check(self, num_codebooks: int) -> None:
        """Raises UserError if codes that are delayed would be read in part: they go as far back as there are
        codebooks."""
        if self.every and self.frames < num_codebooks:
            raise UserError(
                f"generation.reread_frames={self.frames} are too few for {num_codebooks} codebooks; give as many"
            )

    def is_due(self, step: int) -> bool:
        """Whether the steps before this one are read again."""
        return self.every > 0 and step > self.frames and (step - self.frames) % self.every == 0

    def longest_read(self, frames: int) -> int:
        """The most frames that are read in one go, in a piece of `frames`."""
        return min(frames, self.frames + self.every) if self.every else frames


NEVER = Rereading()


@dataclass(eq=False)
class Member:
    """A piece in its slot. `rows`: of its state, in the order that `Piece` names them in. `controls_SD`: what
    controls add to the steps (`MusicLM.controls`); None for a model without any."""

    piece: Piece
    slot: int
    controls_SD: Tensor | None
    rows: list[int] = field(default_factory=list)

    @property
    def asked_rows(self) -> list[int]:
        """Those that hear the controls."""
        return self.rows[: self.piece.prompts + self.piece.request.steers_controls]

    @property
    def is_plain(self) -> bool:
        """Whether it has one prompt, and one guidance."""
        return self.piece.prompts == 1 and not self.piece.request.steers_controls

    def guided(self, logits_RKV: Tensor) -> Tensor:
        """Logits [K, V]: `u + h (k - u) + g (sum_i w_i c_i - k)`, see `MusicRequest`."""
        request, prompts = self.piece.request, self.piece.prompts
        asked_KV = logits_RKV[self.rows[0]] * self.piece.weights[0]
        for row, weight in zip(self.rows[1:prompts], self.piece.weights[1:], strict=True):
            asked_KV = asked_KV + logits_RKV[row] * weight
        if len(self.rows) == prompts:
            return asked_KV
        unasked_KV, controls_KV = logits_RKV[self.rows[-1]], logits_RKV[self.rows[prompts]]
        anchor_KV = controls_KV  # one and the same where there is one row besides the prompts'
        if len(self.rows) > prompts + 1:
            assert request.control_guidance is not None
            anchor_KV = guide(controls_KV, unasked_KV, request.control_guidance)
        assert request.guidance is not None
        return anchor_KV + request.guidance * (asked_KV - controls_KV)


class Written(NamedTuple):
    """What a step gave: codes int64 [n, K] in the order of `members`; where they are a new frame; where the last."""

    codes_nK: np.ndarray
    is_frame_n: np.ndarray
    is_last_n: np.ndarray


class SlotBatch:
    """Pieces in slots. What it remembers does not grow with their length where the model's state does not. Results of
    a seed differ with the batch mates by rounding alone: the number of rows and the padding of the text choose between
    kernels that sum in different orders.

    Args:
        lm: in evaluation mode.
        slots: pieces at a time.
        text_tokens: the longest prompt.
        deterministic: give every seed the same bits in any company. A step always runs over all rows, and a prompt is
            read alone and padded to `text_tokens`; so one piece takes as long as a full batch. How many threads torch
            takes is for the caller to fix.
        rereading: of pieces that are longer than what the model was trained on.
        rows: of state that all members together take, where they are known and nobody else comes.

    Raises:
        UserError: if too few frames are read again.
    """

    def __init__(
        self,
        lm: MusicLM,
        slots: int,
        text_tokens: int,
        deterministic: bool = False,
        rereading: Rereading = NEVER,
        rows: int | None = None,
    ):
        self.slots, self._lm, self._text_tokens, self._deterministic = slots, lm, text_tokens, deterministic
        self._rereading = rereading
        rereading.check(lm.config.num_codebooks)
        most = max(2 * slots, MOST_ROWS) if rows is None else rows
        if deterministic:
            most = -(-most // TILE) * TILE
        self._most_rows = most
        counts = [most] if deterministic or rows is not None else None
        self._rows: FixedRows | GrowingRows = (
            FixedRows(lm, most, text_tokens, counts) if lm.fixed_state else GrowingRows(lm, text_tokens)
        )
        self._free = list(range(slots))[::-1]
        self.members: list[Member] = []
        self._owners: list[Member] = []  # of the rows in use, which come first
        K = lm.config.num_codebooks
        self._step_S, self._known_S, self._total_S = (np.zeros(slots, np.int64) for _ in range(3))
        self._token_SK = np.full((slots, K), lm.special)
        self._recent_SJK = np.zeros((slots, max(K, rereading.frames), K), np.int64)  # codes of step s at s modulo J
        self._uniform_SJK = np.zeros((slots, AHEAD + K - 1, K))
        self._first_uniform_S = np.zeros(slots, np.int64)  # the frame that `uniform` begins with

    @classmethod
    def of(cls, lm: MusicLM, pieces: Sequence[Piece], rereading: Rereading = NEVER) -> SlotBatch:
        """A batch of these pieces alone, whose rows are as many as they take."""
        rows = sum(piece.request.rows for piece in pieces)
        batch = cls(lm, len(pieces), max(map(tokens_of, pieces)), False, rereading, rows)
        batch.warm_up(compiled=False)
        batch.join(pieces)
        return batch

    def read(self, frames: int) -> Tensor:
        """The next `frames` frames of a batch that `of` gave and whose pieces are equally long: int64 [B, K, T]."""
        codes_BKT = np.empty((len(self.members), self._lm.config.num_codebooks, frames), np.int64)
        written = 0
        while written < frames:
            codes_nK, is_frame_n, _ = self.step()
            if is_frame_n[0]:
                codes_BKT[:, :, written] = codes_nK
                written += 1
        return torch.from_numpy(codes_BKT)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def free_rows(self) -> int:
        """Rows that nobody has; see `MusicRequest.rows`."""
        return self._most_rows - len(self._owners)

    def warm_up(self, compiled: bool) -> bool:
        """See `FixedRows.warm_up`.

        Raises:
            ArithmeticError: if it cannot be deterministic on this machine.
        """
        is_fast = self._rows.warm_up(compiled)
        if self._deterministic and isinstance(self._rows, FixedRows):
            self._rows.check_rows_agree()
        return is_fast

    def check(self, piece: Piece) -> None:
        """Raises UserError if a piece has more text or frames than a slot can take."""
        tokens = tokens_of(piece)
        if tokens > self._text_tokens:
            raise UserError(f"text of {tokens} tokens is over the limit of {self._text_tokens}; shorten it")
        self._lm.check_length(self._rereading.longest_read(piece.known + piece.frames))

    def join(self, pieces: Sequence[Piece]) -> list[Member]:
        """Read the prompts of new members. There must be as many free slots, and rows."""
        members = []
        for group in self._groups(pieces):
            asked = self._conditions([text for piece in group for text in _texts_of(piece)])
            texts = len(asked)
            is_first = self._rows.null is None and not self._deterministic
            if is_first and any(_reads_null(piece) for piece in group):  # two in one go take hardly longer than one
                asked = Conditions.cat(asked, asked.rows([0]).as_null())
            state = self._rows.read(asked)
            if len(asked) > texts:
                self._rows.null = state, texts
            index = 0
            for piece in group:
                steps = piece.known + piece.frames + self._lm.config.num_codebooks - 1
                controls_PSD = self._lm.controls(piece.conditions, steps)
                member = Member(piece, self._free.pop(), None if controls_PSD is None else controls_PSD[0])
                for _ in piece.weights:
                    self._rows.put(self._give_row(member), state, index)
                    index += 1
                for _ in range(piece.request.rows - piece.prompts):
                    if piece.negative is None:
                        self._rows.put_null(self._give_row(member))
                    else:
                        self._rows.put(self._give_row(member), state, index)
                index += piece.negative is not None
                self._begin(member)
                members.append(member)
        self.members += members
        self._arrange()
        return members

    def _groups(self, together: Sequence[Read]) -> list[Sequence[Read]]:
        """What is read in one go: all, or each alone where company must not matter."""
        return [[one] for one in together] if self._deterministic else [together]

    def _conditions(self, rows: Sequence[Conditions]) -> Conditions:
        conditions = Conditions.cat(*rows)
        return conditions.padded(self._text_tokens) if self._deterministic else conditions

    def _give_row(self, member: Member) -> int:
        member.rows.append(len(self._owners))
        self._owners.append(member)
        return member.rows[-1]

    def _begin(self, member: Member) -> None:
        slot, piece = member.slot, member.piece
        self._step_S[slot], self._known_S[slot] = 0, piece.known
        self._total_S[slot] = piece.known + piece.frames
        self._token_SK[slot] = self._lm.special
        self._draw_ahead(member)

    def leave(self, leaving: Collection[Member]) -> None:
        """Free the members' slots; the rows of others move up into theirs."""
        gone = set(map(id, leaving))
        self.members = [member for member in self.members if id(member) not in gone]
        self._free += [member.slot for member in leaving]
        for row in sorted((row for member in leaving for row in member.rows), reverse=True):
            last, owner = len(self._owners) - 1, self._owners.pop()
            if row < last:
                self._rows.move(last, row)
                owner.rows[owner.rows.index(last)] = row
                self._owners[row] = owner
        self._arrange()

    def _arrange(self) -> None:
        """What depends on who is in the batch, and is the same from step to step."""
        if not self.members:
            return
        count = self._rows.count_for(len(self._owners))
        self._slot_n = np.array([member.slot for member in self.members])
        # Rows that are not in use are stepped with the others' codes, to no effect.
        self._slot_R = np.array([owner.slot for owner in self._owners] + [0] * (count - len(self._owners)))
        device = self._rows.device
        self._conditional_n = _places([member.rows[0] for member in self.members], device)
        self._unconditional_n = _places([member.rows[-1] for member in self.members], device)
        self._unusual = [(place, member) for place, member in enumerate(self.members) if not member.is_plain]
        self._sampling = SamplingRows.of([member.piece.request.sampling for member in self.members], device)

    @torch.inference_mode()
    def step(self) -> Written:
        """Write one step of every member."""
        if self._rereading.every:
            due = [one for one in self.members if self._rereading.is_due(int(self._step_S[one.slot]))]
            for group in self._groups(due) if due else []:
                self._read_again(group)
        logits_nKV = self._step_rows()
        slot_n, K = self._slot_n, self._lm.config.num_codebooks
        frame_nK = self._step_S[slot_n][:, None] - np.arange(K)
        uniform_nK = torch.from_numpy(self._uniforms(frame_nK.clip(min=0))).to(self._rows.device)
        codes_nK = sample_each(logits_nKV, uniform_nK, self._sampling).cpu().numpy()
        total_n = self._total_S[slot_n]
        codes_nK[(frame_nK < 0) | (frame_nK >= total_n[:, None])] = self._lm.special
        self._read_primers(codes_nK, frame_nK)
        self._token_SK[slot_n] = codes_nK
        written_n = frame_nK[:, -1]  # the youngest frame that all codebooks have
        step_n, kept = self._step_S[slot_n], self._recent_SJK.shape[1]
        self._recent_SJK[slot_n, step_n % kept] = codes_nK
        codes_nK = self._recent_SJK[slot_n[:, None], (written_n[:, None] + np.arange(K)) % kept, np.arange(K)]
        self._step_S[slot_n] += 1
        return Written(codes_nK, written_n >= self._known_S[slot_n], written_n + 1 == total_n)

    def _read_again(self, members: Sequence[Member]) -> None:
        """Put members' rows where they are after the prompt and the last steps, but for the very last, which the next
        step reads."""
        slot_n = np.array([member.slot for member in members])
        step_nS = self._step_S[slot_n][:, None] + np.arange(-self._rereading.frames, 0)
        last_nSK = self._recent_SJK[slot_n[:, None], step_nS % self._recent_SJK.shape[1]]
        last_nKS = as_beginning(torch.from_numpy(last_nSK).transpose(1, 2), self._lm.special)
        self._token_SK[slot_n] = last_nKS[:, :, -1]
        spans = [(step_S[0], step_S[-1] + 1) for step_S in step_nS.tolist()]
        tokens_nKS = shift_right(last_nKS, self._lm.special)
        # First the prompts' rows, then the others.
        for conditions_of in (Piece.asked_between, Piece.others_between):
            parts = [conditions_of(member.piece, *span) for member, span in zip(members, spans, strict=True)]
            owners = [number for number, part in enumerate(parts) for _ in range(0 if part is None else len(part))]
            if not owners:
                continue
            state = self._rows.read(self._conditions([part for part in parts if part is not None]), tokens_nKS[owners])
            for index, number in enumerate(owners):
                member = members[number]
                first = 0 if conditions_of is Piece.asked_between else member.piece.prompts
                self._rows.put(member.rows[first + index - owners.index(number)], state, index)

    def _step_rows(self) -> Tensor:
        """Guided logits [n, K, V] of the members' next codes."""
        token_RK = torch.from_numpy(self._token_SK[self._slot_R]).to(self._rows.device)
        logits_RKV = self._rows.step(token_RK, self._controls()).float()
        conditional_nKV = logits_RKV[self._conditional_n]
        if len(self._owners) == len(self.members):  # no guidance
            return conditional_nKV
        guided_nKV = guide(conditional_nKV, logits_RKV[self._unconditional_n], self._sampling.guidance)
        for place, member in self._unusual:
            guided_nKV[place] = member.guided(logits_RKV)
        return guided_nKV

    def _controls(self) -> Tensor | None:
        """What controls add to the next step, [R, D]; nothing is asked of unconditional rows."""
        if not self._lm.inputs.channels:
            return None
        controls_RD = torch.zeros(len(self._slot_R), self._lm.config.width, device=self._rows.device)
        for member in self.members:
            assert member.controls_SD is not None
            for row in member.asked_rows:
                controls_RD[row] = member.controls_SD[self._step_S[member.slot]]
        return controls_RD

    def _uniforms(self, frame_nK: np.ndarray) -> np.ndarray:
        """The random numbers of the members' next codes, [n, K]."""
        slot_n = self._slot_n
        for index in (frame_nK[:, 0] >= self._first_uniform_S[slot_n] + AHEAD).nonzero()[0]:
            self._draw_ahead(self.members[index])
        place_nK = frame_nK - self._first_uniform_S[slot_n][:, None]
        return self._uniform_SJK[slot_n[:, None], place_nK, np.arange(frame_nK.shape[1])]

    def _draw_ahead(self, member: Member) -> None:
        length, K = self._uniform_SJK.shape[1:]
        first = max(int(self._step_S[member.slot]) - K + 1, 0)
        self._first_uniform_S[member.slot] = first
        self._uniform_SJK[member.slot] = uniform_table(member.piece.seed, first, length, K)

    def _read_primers(self, codes_nK: np.ndarray, frame_nK: np.ndarray) -> None:
        """Put the codes of the primers, where they have them, in the place of drawn ones."""
        known_n = self._known_S[self._slot_n]
        for index in ((known_n > 0) & (frame_nK[:, -1] < known_n)).nonzero()[0]:
            primer_KT = self.members[index].piece.primer_KT
            assert primer_KT is not None
            for k, frame in enumerate(frame_nK[index]):
                if 0 <= frame < primer_KT.shape[1]:
                    codes_nK[index, k] = primer_KT[k, frame]


def tokens_of(piece: Piece) -> int:
    return max(part["text"].mask_BS.shape[1] for part in _texts_of(piece))


def _texts_of(piece: Piece) -> list[Conditions]:
    """What is read before the first frame: the prompts, then the negative one."""
    return [piece.conditions.frames(0, 0), *([] if piece.negative is None else [piece.negative])]


def _reads_null(piece: Piece) -> bool:
    return piece.negative is None and piece.request.rows > piece.prompts


def _places(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """An index of rows: a slice where they are evenly spaced, which costs less."""
    gaps = set(np.diff(rows).tolist()) or {1}
    if len(gaps) == 1 and min(gaps) > 0:
        return slice(rows[0], rows[-1] + 1, min(gaps))
    return torch.tensor(rows, device=device)
