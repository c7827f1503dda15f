"""What this machine multiplies natively, and how a process that computes is set up for it.

Sums over several threads are added in another order, so the last bits of a result depend on their number: what must be
the same everywhere is computed with a fixed one.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch


def multiplies_bf16(device: str) -> bool:
    """Whether a device of this kind (`cuda`, `cpu`) multiplies bfloat16 itself. Where it is emulated, fp32 is as fast
    and exacter."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()  # those of another architecture are not in it
    return bool(features.get("avx512_bf16") or features.get("amx_tile"))


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Let this thread's CPU take numbers below 1e-38 for zero.

    Decays over a chunk and second moments reach them, and each takes many times as long: 12 % of a Mamba-2 layer on
    `mini`.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def tune_allocator() -> None:
    """Keep freed memory in the process (glibc only).

    Large activations are otherwise mapped and unmapped at every use: 3 to 1000 times fewer page faults in a step of
    `mini`, a few percent of CPU time at most. glibc reads the environment variables for this before Python starts,
    hence mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 256 * 2**20)


@contextlib.contextmanager
def torch_threads(number: int = 1) -> Iterator[None]:
    """Torch on `number` threads in the calling thread; also a decorator. Threads that first use torch meanwhile keep
    this number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
