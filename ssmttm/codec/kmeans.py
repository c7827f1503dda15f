"""Residual k-means: seeded, vectorised, on one device.

Shapes: M vectors, D dimensions, V centroids, K codebooks, S rows of a sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_AT_ONCE = 2048  # keeps the M x V table of distances within the cache


def nearest(vectors_MD: Tensor, centroids_VD: Tensor) -> Tensor:
    """Index [M] int64 of the centroid nearest to each vector (Euclidean)."""
    half_norm_V = centroids_VD.square().sum(1) / 2
    return torch.cat(
        [torch.addmm(half_norm_V, rows, centroids_VD.T, alpha=-1).argmin(1) for rows in vectors_MD.split(ROWS_AT_ONCE)]
    )


def refine(vectors_MD: Tensor, centroids_VD: Tensor, generator: torch.Generator) -> Tensor:
    """One Lloyd step. A centroid without vectors is put on one drawn with odds of its squared distance to its own."""
    index_M = nearest(vectors_MD, centroids_VD)
    count_V = torch.bincount(index_M, minlength=len(centroids_VD))
    sums_VD = torch.zeros_like(centroids_VD).index_add_(0, index_M, vectors_MD)
    moved_VD = sums_VD / count_V.clamp_min(1)[:, None]
    dead = (count_V == 0).nonzero()[:, 0]
    if len(dead):
        distance_M = (vectors_MD - centroids_VD[index_M]).square().sum(1) + 1e-12
        moved_VD[dead] = vectors_MD[torch.multinomial(distance_M, len(dead), replacement=True, generator=generator)]
    return moved_VD


def fit_residual_codebooks(
    vectors_MD: Tensor,
    codebooks: int,
    size: int,
    seed: int,
    *,
    steps: int = 3,
    sample_steps: int = 6,
    sample_rows: int = 24_576,
    on_codebook: Callable[[float], object] = lambda used: None,
) -> Tensor:
    """Fit codebooks one after another, each to what those before it leave over.

    Args:
        vectors_MD: float32 training vectors.
        codebooks, size: K and V.
        seed: of every draw.
        steps: Lloyd steps over all vectors.
        sample_steps: and before them over a sample, which is where most of the way is made.
        sample_rows: rows of that sample.
        on_codebook: called after each codebook with the share of its entries that the vectors use.

    Returns:
        codebooks_KVD float32.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_MD = vectors_MD.clone()
    books: list[Tensor] = []
    for _ in range(codebooks):
        sample_SD = residual_MD[torch.randperm(len(residual_MD), generator=generator)[:sample_rows]]
        # Plain draws: k-means++ lowered the first codebook's error by 0.5 % and no other's, for a tenth more time.
        centroids_VD = sample_SD[:size].clone()
        for _ in range(sample_steps):
            centroids_VD = refine(sample_SD, centroids_VD, generator)
        for _ in range(steps):
            centroids_VD = refine(residual_MD, centroids_VD, generator)
        index_M = nearest(residual_MD, centroids_VD)
        residual_MD -= centroids_VD[index_M]
        books.append(centroids_VD)
        on_codebook(len(index_M.unique()) / size)
    return torch.stack(books)
