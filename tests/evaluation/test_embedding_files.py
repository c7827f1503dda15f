from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssmttm.errors import UserError
from ssmttm.evaluation.embedding_files import find_embeddings, read_embeddings

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "b.npz", anything=ROWS)
    save_file({"rows": ROWS}, tmp_path / "c.safetensors")
    for name in ("a.npy", "b.npz", "c.safetensors"):
        values = read_embeddings(str(tmp_path / name))
        assert values.dtype == np.float64
        assert np.array_equal(values, ROWS)
    assert find_embeddings(str(tmp_path), "a") == str(tmp_path / "a.npy")
    assert find_embeddings(str(tmp_path), "d") is None
    np.savez(tmp_path / "a.npz", ROWS)
    with pytest.raises(UserError, match=r"holds a.npy and a.npz; keep one"):
        find_embeddings(str(tmp_path), "a")


def test_pickles_are_never_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", np.array([Trap()], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(UserError, match="cannot be read as numbers"):
            read_embeddings(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ROWS, "y": ROWS}, "2 arrays"),
        ({"x": ROWS[0]}, r"shape \(2,\)"),
        ({"x": np.array([["a", "b"]])}, "store numbers"),
        ({"x": np.full((2, 2), np.nan)}, "not finite"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_embeddings(str(tmp_path / "a.npz"))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(b"not numbers")
        with pytest.raises(UserError, match=name):
            read_embeddings(str(tmp_path / name))
    with pytest.raises(UserError, match=r"read from .npy"):
        read_embeddings(str(tmp_path / "a.pkl"))
