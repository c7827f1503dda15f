"""The verb `verify`: of anything that ssmttm wrote, whether it is whole. Each check is what its reader does anyway."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.verified import File, Listing

# Names of a study's tables and settings, which lie in a layer beside this one.
STUDY, TABLES = "study.json", ("study.csv", "search.csv")
STUDY_COLUMNS = {"backbone", "size", "seed", "steps", "val_nats", "status"}


@dataclass(frozen=True)
class Verdict:
    """What was found at `uri`: its kind, what it holds, and, if it is not whole, the problem."""

    uri: str
    kind: str
    holds: str
    problem: str = ""

    def __str__(self) -> str:
        if not self.problem:
            return f"whole: {self.kind} {self.uri} ({self.holds})"
        return f"damaged: {self.kind} {self.uri}: {self.problem.removeprefix(f'{self.uri} is damaged: ')}"


Check = Callable[[str], str]


def _megabytes(listing: Listing) -> str:
    size = sum(file.size or 0 for file in listing.files.values())
    return f"{len(listing.files)} files, {size / 1e6:,.1f} MB"


def _bundle(uri: str) -> str:
    from ssmttm.bundle.load import open_bundle, read_parts

    parts, (listing, _) = read_parts(uri), open_bundle(uri)
    listing.check()  # also what no reader needs
    return f"{parts.model_id}, {_megabytes(listing)}"


def _codec(uri: str) -> str:
    from ssmttm.codec.store import load_codec
    from ssmttm.training.codec import REPORT_NAME

    codec = load_codec(uri)
    if storage.exists(storage.join(uri, REPORT_NAME)):
        Listing.read(uri, REPORT_NAME, "fit the codec again", links=True).check()
    vocoder = "" if codec.describe_vocoder() is None else " with a vocoder"
    return f"{codec.name}{vocoder}, {codec.num_codebooks} x {codec.codebook_size} codes, {codec.sample_rate} Hz"


def _dataset(uri: str) -> str:
    from ssmttm.tokens.schema import TEXT_FOLDER, open_dataset, read_checked, shards_of

    dataset = open_dataset(uri)
    dataset.check()
    tables = [read_checked(shard, ["id", "text_keys"]) for shard in shards_of(dataset)]
    rows, told = sum(map(len, tables)), dataset.content.get("rows")
    if told not in (None, rows):
        raise dataset.commit.damaged(f"names {told} rows, and the shards hold {rows}")
    used = {key for table in tables for keys in table.column("text_keys").to_pylist() for key in keys}
    for name, file in dataset.files.items():
        if name.startswith(f"{TEXT_FOLDER}/"):
            used -= set(read_checked(file, ["key"]).column("key").to_pylist())
    if used:
        raise dataset.commit.damaged(f"lists no text table with {len(used)} of the captions that rows name")
    return f"{rows} rows, {_megabytes(dataset)}"


def _checkpoint(uri: str) -> str:
    from ssmttm.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(uri)
    return f"{checkpoint.task or 'a task of before'}, step {checkpoint.progress.step}"


def _weights(uri: str) -> str:
    from ssmttm.model.weights import DESCRIPTION, load_completer, load_lm

    kind = File(storage.join(uri, DESCRIPTION)).json().get("kind")
    model, _ = {"stage1": load_lm, "stage2": load_completer}[kind](uri)
    return f"{kind}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters"


def _run(uri: str) -> str:
    """The run's own files; its checkpoints and weights are verdicts of their own."""
    from ssmttm.training.checkpoint import CheckpointStore
    from ssmttm.training.run import Run
    from ssmttm.training.writer import read_rows

    run = Run(uri)
    for name in ("config.json", "dataset.json", "summary.json"):
        file = File(run.path(name), described=f"{uri} is damaged: {name}")
        if storage.exists(file.uri) and not isinstance(file.json(), dict):
            raise file.damaged("is no table")
    steps = [row["step"] for row in read_rows(run.metrics)]
    if steps != sorted(set(steps)):
        raise UserError(f"{uri} is damaged: metrics.jsonl has steps twice, or not in order")
    saved = CheckpointStore(run.checkpoints, keep=1).committed()
    end = "finished" if storage.exists(run.summary) else "not finished"
    return f"{end}, {len(saved)} checkpoints"


def _manifest(uri: str) -> str:
    from ssmttm.config import CorpusConfig
    from ssmttm.tokens.check import read_inventory

    inventory = read_inventory(uri, CorpusConfig(), progress=False)
    if inventory.problems:
        more = f" (and {len(inventory.problems) - 1} more)" if len(inventory.problems) > 1 else ""
        raise UserError(f"{inventory.problems[0]}{more}; see ssmttm corpus check")
    return f"{len(inventory.entries)} tracks"


def _study(uri: str) -> str:
    File(storage.join(uri, STUDY), described=f"{uri} is damaged: {STUDY}").json()
    tables = [name for name in TABLES if storage.exists(storage.join(uri, name))]
    done = total = 0
    for name in tables:
        rows = list(csv.DictReader(io.StringIO(storage.read_text(storage.join(uri, name)))))
        for row in rows:
            if not row.keys() >= STUDY_COLUMNS or None in row.values():
                raise UserError(f"{uri} is damaged: {name} has a row that is cut short; start the study again")
        total, done = total + len(rows), done + sum(row["status"] == "done" for row in rows)
    return f"{done} of {total} trials done"


# Kinds by the files that only they hold, the first that fits; half of one is one that is not whole.
KINDS: tuple[tuple[str, Check, Callable[[Collection[str]], bool]], ...] = (
    ("bundle", _bundle, lambda names: "bundle.json" in names or {"stage1.safetensors", "config.json"} <= set(names)),
    ("checkpoint", _checkpoint, lambda names: "checkpoint.json" in names or "progress.json" in names),
    ("run", _run, lambda names: "config.json" in names and bool({"checkpoints", "metrics.jsonl"} & set(names))),
    ("dataset", _dataset, lambda names: bool({"dataset.json", "plan.json", "shards"} & set(names))),
    ("codec", _codec, lambda names: bool({"codec.json", "codec.safetensors"} & set(names))),
    ("weights", _weights, lambda names: "model.json" in names),
    ("study", _study, lambda names: STUDY in names),
    ("corpus", _manifest, lambda names: "manifest.jsonl" in names),
    ("codec", _codec, lambda names: {"config.json", "model.safetensors"} <= set(names)),
)


def _kind(uri: str) -> tuple[str, Check] | None:
    if uri.endswith(".jsonl"):
        return ("corpus", _manifest) if storage.exists(uri) else None
    names = storage.list_names(uri)
    return next(((kind, check) for kind, check, fits in KINDS if fits(names)), None)


def _parts(uri: str, kind: str) -> list[str]:
    """Of a run, the folders in it that are judged by themselves."""
    if kind != "run":
        return []
    steps = [name for name in storage.list_names(storage.join(uri, "checkpoints")) if name.startswith("step-")]
    parts = [storage.join(uri, "checkpoints", name) for name in steps]
    committed = [part for part in parts if storage.exists(storage.join(part, "checkpoint.json"))]
    weights = storage.join(uri, "weights")
    return [*committed, *([weights] if storage.exists(storage.join(weights, "model.json")) else [])]


def _verdict(uri: str, kind: str, check: Check) -> Verdict:
    try:
        return Verdict(uri, kind, check(uri))
    except Exception as error:  # whatever a reader stumbles over: it is not whole
        known = str(error) if isinstance(error, UserError) else f"cannot be read ({type(error).__name__}: {error})"
        return Verdict(uri, kind, "", " ".join(known.split()) or type(error).__name__)


def verify(uri: str) -> Iterator[Verdict]:
    """A verdict of what lies at `uri`; where that is a folder of such things, of each.

    Raises:
        UserError: if there is nothing of ours.
    """
    uri = uri.rstrip("/") or uri
    found = _kind(uri)
    places = [uri] if found else [storage.join(uri, name) for name in storage.list_names(uri)]
    known = [(place, kind) for place in places if (kind := found or _kind(place))]
    if not known:
        raise UserError(
            f"{uri} holds nothing that ssmttm wrote; give a bundle, codec, dataset, run, checkpoint, manifest or "
            "study, or a folder of them"
        )
    for place, (kind, check) in known:
        yield _verdict(place, kind, check)
        for part in _parts(place, kind):
            if inner := _kind(part):
                yield _verdict(part, *inner)
