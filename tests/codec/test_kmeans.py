"""k-means: exact assignment, progress, dead centroids, seeds."""

from __future__ import annotations

import torch

from ssmttm.codec.kmeans import fit_residual_codebooks, nearest, refine


def blobs(count: int = 600) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(6, 5, generator=generator) * 10
    return centres[torch.arange(count) % 6] + 0.1 * torch.randn(count, 5, generator=generator)


def error(vectors_MD: torch.Tensor, centroids_VD: torch.Tensor) -> float:
    return float((vectors_MD - centroids_VD[nearest(vectors_MD, centroids_VD)]).square().sum(1).mean())


def test_nearest_agrees_with_the_distance_table() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, centroids = torch.randn(5000, 7, generator=generator), torch.randn(33, 7, generator=generator)
    assert torch.equal(nearest(vectors, centroids), torch.cdist(vectors.double(), centroids.double()).argmin(1))


def test_refining_lowers_the_error() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2000, 4, generator=generator)
    centroids = vectors[:32].clone()
    errors = [error(vectors, centroids)]
    for _ in range(5):
        centroids = refine(vectors, centroids, generator)
        errors.append(error(vectors, centroids))
    assert errors == sorted(errors, reverse=True)


def test_dead_centroids_move_to_where_the_error_is() -> None:
    vectors = blobs()
    centroids = torch.cat([vectors[:5], torch.full((1, 5), 1e6)])
    refined = refine(vectors, centroids, torch.Generator().manual_seed(0))
    assert nearest(refined[5:], vectors[:6]).item() == 5  # the one blob that had no centroid


def test_residual_codebooks_are_seeded_and_each_lowers_the_error() -> None:
    vectors = torch.randn(1500, 6, generator=torch.Generator().manual_seed(1))
    used: list[float] = []
    books = fit_residual_codebooks(vectors, 3, 16, seed=5, on_codebook=used.append)
    assert books.shape == (3, 16, 6)
    assert used == [1.0, 1.0, 1.0]
    assert torch.equal(books, fit_residual_codebooks(vectors, 3, 16, seed=5))
    assert not torch.equal(books, fit_residual_codebooks(vectors, 3, 16, seed=6))
    residual, errors = vectors.clone(), [float(vectors.square().sum())]
    for book in books:
        residual -= book[nearest(residual, book)]
        errors.append(float(residual.square().sum()))
    assert errors == sorted(errors, reverse=True)
