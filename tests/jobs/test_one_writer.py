"""Every job that writes a folder refuses one that another job writes to, before it changes anything there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from file_s3 import Server
from test_train_jobs import COMPARABLE, assert_same_numbers, command, run_local

from jobs import demo, evaluate
from ssmttm import config as configuration
from ssmttm import storage
from ssmttm.config import Config
from ssmttm.errors import EXIT_USER_ERROR, UserError
from ssmttm.lease import LeaseLostError, Process, Record, hold
from ssmttm.storage import LEASE_NAME
from ssmttm.tokens.write import preprocess_local
from ssmttm.training.codec import train_codec
from ssmttm.training.export import export_bundle
from ssmttm.training.launch import make_task, train
from ssmttm.training.run import Run, prepare
from ssmttm.training.writer import RunWriter, read_rows
from tuning import ablation, scaling_study, search

MakeConfig = Callable[..., Config]


def at(config: Config, **places: str) -> Config:
    """The configuration with other paths, by `section_key`."""
    values = config.model_dump()
    for name, uri in places.items():
        section, key = name.split("_", 1)
        values[section][key] = uri
    return configuration.from_dict(values)


def study_words(config: Config, out: str) -> list[str]:
    return ["--preset", "tiny", f"train.data={config.train.data}", "--out", out]


def mains(config: Config, out: str) -> dict[str, tuple[Callable[..., Any], list[str]]]:
    """Entry points with command lines that write to `out`."""
    words = study_words(config, out)
    return {
        "demo": (demo.main, ["--preset", "tiny", "--out", out]),
        "evaluate": (evaluate.main, ["--preset", "tiny", f"evaluate.out={out}", f"evaluate.bundle={out}"]),
        "study": (scaling_study.main, [*words, "--sizes", "1"]),
        "search": (search.main, [*words, "--lr", "1e-3"]),
        "ablation": (ablation.main, [*words, "--flops", "1e9", "--systems", "ours"]),
    }


@pytest.mark.parametrize("job", ["demo", "evaluate", "study", "search", "ablation"])
def test_entry_points_end_in_one_line_that_names_the_owner(
    job: str, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if job == "ablation":
        monkeypatch.setattr(ablation, "plan", lambda *_: [])
    main, words = mains(tiny_config, str(tmp_path))[job]
    monkeypatch.setattr(sys, "argv", [job, *words])
    with hold(str(tmp_path), "wait"), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path} is being written by process {Process.own().pid} on ")
    assert not list(tmp_path.iterdir())


def test_the_composer_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with hold(str(tmp_path), "wait"):
        code, _, err = Command(monkeypatch, capsys)("corpus", "compose", "--out", str(tmp_path), "--hours", "0.01")
    assert code == EXIT_USER_ERROR
    assert "is being written by process" in err
    assert not list(tmp_path.iterdir())


def test_training_codec_tokens_and_bundle_too(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    doors: list[Callable[[], Any]] = [
        lambda: train(at(tiny_config, train_out=str(tmp_path), train_name="run"), "stage1"),
        lambda: train_codec(at(tiny_config, codec_path=out)),
        lambda: preprocess_local(at(tiny_config, corpus_out=out)),
        lambda: export_bundle("none", None, out),
    ]
    with hold(out, "wait"):
        for door in doors:
            with pytest.raises(UserError, match=f"^{out} is being written by process .*, or choose another "):
                door()
    assert not Path(out).exists()


def test_what_is_finished_is_read_beside_a_writer(tiny_config: Config, tiny_tokens: str, tmp_path: Path) -> None:
    """A finished codec or data set is only read: no lease is asked for."""
    with hold(tiny_tokens, "wait"):
        assert preprocess_local(tiny_config).reports == []


def test_a_run_that_was_taken_over_writes_no_more(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("stage1", "train.name=lost")
    run = prepare(config, "stage1")
    assert run is not None
    with hold(run.uri, "wait") as held:
        writer = RunWriter(Run(run.uri, held), 2, 0)
        writer.metrics.append({"step": 1})
        writer.flush()
        writer.join()
        other = Record("other", (Process("gpu-7", "another boot", 1, "1"),))
        storage.write_bytes(run.path(LEASE_NAME), other.packed())
        writer.metrics.append({"step": 2})
        writer.flush()
        writer.join()
        assert isinstance(writer.error, LeaseLostError)
    assert [row["step"] for row in read_rows(run.metrics)] == [1]
    assert make_task("stage1", config)


def test_a_training_holds_its_folder_and_gives_it_back(make_config: MakeConfig) -> None:
    config, seen = make_config("stage1", "train.name=held"), []

    class Listener:
        def begin(self, step: int) -> None:
            seen.append(storage.read_json(storage.join(config.train.out, "held", LEASE_NAME))["processes"][0]["pid"])
            with pytest.raises(UserError, match="is being written by"):
                train(config, "stage1")

        def metrics(self, values: dict[str, float], step: int) -> None: ...

        def checkpoint(self, uri: str, step: int) -> None: ...

        def artifacts(self, uris: list[str]) -> None: ...

        def samples(self, uris: list[str], step: int) -> None: ...

    run = train(config, "stage1", Listener())
    assert seen == [Process.own().pid]
    assert not storage.exists(run.path(LEASE_NAME))
    assert train(config, "stage1").uri == run.uri, "finished"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_two_starts_of_one_run_leave_the_run_of_one(
    place: str, tiny_tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second ends with one line while the first, here suspended, still lives; and the figures are those of a run
    that was never disturbed."""
    server = Server(tmp_path / "objects")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    out = str(tmp_path / "out") if place == "disk" else "s3://bucket/runs"
    words = [*COMPARABLE, "train.launch=local", f"train.out={out}", "train.steps=30", "train.checkpoint_every=5"]
    words = command("stage1", tiny_tokens, tmp_path, *words)
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
            assert first.stdout is not None
            assert any(line.startswith("step 1/") for line in first.stdout)
            first.send_signal(signal.SIGSTOP)
            second = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
            first.send_signal(signal.SIGCONT)
            first.communicate(timeout=200)
        assert first.returncode == 0
        assert second.returncode == EXIT_USER_ERROR, second.stdout + second.stderr
        assert second.stderr.count("\n") == 1
        assert f"is being written by process {first.pid} on" in second.stderr
        expected = run_local(tiny_tokens, tmp_path, *COMPARABLE, "train.steps=30", "train.checkpoint_every=5")
        assert_same_numbers(Run(f"{out}/stage1"), expected, tolerance=0)
        assert not storage.exists(f"{out}/stage1/{LEASE_NAME}")
    finally:
        server.kill()
