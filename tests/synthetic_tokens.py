"""A small token dataset and codec in the formats of the real ones, without audio or a text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ssmttm import config, storage
from ssmttm.codec.mini import MiniCodec
from ssmttm.codec.store import save_codec

TEXT_DIM = 12


def make_codec(folder: Path, settings: config.CodecConfig, seconds: int = 2) -> MiniCodec:
    """A real `mini` codec, fitted on eight clips of noise and tones."""
    generator = np.random.default_rng(0)
    time = np.arange(seconds * settings.sample_rate) / settings.sample_rate
    clips = [
        (0.3 * np.sin(2 * np.pi * 110 * 2 ** (i / 4) * time) + 0.1 * generator.standard_normal(len(time))).astype("f4")
        for i in range(8)
    ]
    codec = MiniCodec(settings)
    codec.fit(clips, seed=0, progress=False)
    save_codec(codec, str(folder))
    return codec


def write_tokens(folder: Path, codec: MiniCodec, rows: int = 40, held_out: int = 6, frames: int = 20) -> str:
    """Shards whose codes depend on their captions, so that there is something to learn. Rows have unequal lengths."""
    generator = np.random.default_rng(1)
    (folder / "shards").mkdir(parents=True)
    (folder / "text").mkdir()
    captions = [f"sound number {i % 5}, version {i // 5}" for i in range(15)]
    meanings = generator.standard_normal((5, TEXT_DIM))
    texts = []
    for i, caption in enumerate(captions):
        states = meanings[i % 5] + 0.1 * generator.standard_normal((4 + i // 5, TEXT_DIM))
        values = states.astype(np.float16).tobytes()
        texts.append({"key": f"key{i}", "caption": caption, "length": len(states), "states": values})
    pq.write_table(pa.Table.from_pylist(texts), folder / "text" / "table-00000.parquet")
    table = []
    for i in range(rows):
        length = frames - i % 3
        codes = generator.integers(0, codec.codebook_size, (codec.num_codebooks, length))
        codes[0] = (7 * (i % 5) + np.arange(length)) % codec.codebook_size
        with torch.no_grad():
            fine = codec.fine_from_codes(torch.from_numpy(codes)[None])[0].numpy()
        table.append(
            {
                "id": f"row{i:03d}",
                "source_id": f"row{i:03d}",
                "split": "val" if i < held_out else "train",
                "start_s": 0.0,
                "duration_s": length / codec.frame_rate,
                "frames": length,
                "codes": codes.astype(np.int16).tobytes(),
                "fine": fine.astype(np.float16).tobytes(),
                "text_keys": [f"key{i % 5}", f"key{i % 5 + 5}", f"key{i % 5 + 10}"],
                "licence": "CC0-1.0",
                "artist": "nobody",
                "title": f"row {i}",
                "source_url": "",
                "audio": "",
                "tags": json.dumps({"genre": str(i % 5)}),
            }
        )
    half = len(table) // 2
    pq.write_table(pa.Table.from_pylist(table[:half]), folder / "shards" / "part-00000.parquet")
    pq.write_table(pa.Table.from_pylist(table[half:]), folder / "shards" / "part-00001.parquet")
    info = {
        "rows": rows,
        "codec": {
            "uri": str(folder.parent / "codec"),
            "fingerprint": codec.fingerprint(),
            "config": codec.describe(),
        },
        "text": {
            "reference": {"encoder": "minilm", "path": None, "max_tokens": 96, "numbers": True},
            "fingerprint": "f",
            "dim": TEXT_DIM,
        },
    }
    storage.write_commit(str(folder), "dataset.json", info)
    return str(folder)
