"""The demo's order, skipping and failures with a stand-in for the cluster; once, marked slow, the real thing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import test_noise

from jobs import demo
from ssmttm import audio, storage
from ssmttm.errors import UserError
from ssmttm.training.ray_jobs import JobFailedError

ORDER = ["compose", "train_codec", "preprocess", "train_stage1", "train_stage2", "export", "evaluate"]


class Jobs:
    """Runs no job but writes the file that says a step is done, as the job would."""

    def __init__(self, steps: list[demo.Step]):
        self.steps = steps
        self.ran: list[str] = []
        self.failing = ""
        self.silent = ""

    def run(self, client: object, command: Sequence[str], folder: str, log_path: str) -> None:
        (step,) = (step for step in self.steps if step.command == list(command))
        self.ran.append(step.name)
        if step.name == self.failing:
            raise JobFailedError("last lines of the log")
        if step.name != self.silent:
            storage.write_json(step.done, {})


@contextmanager
def no_cluster() -> Iterator[None]:
    yield None


@pytest.fixture
def tiny_demo(tmp_path: Path) -> demo.Demo:
    return demo.open_demo(str(tmp_path / "out"), "tiny", ["train.steps=3"])[0]


@pytest.fixture
def jobs(tiny_demo: demo.Demo, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    settings = demo.config.load("tiny")
    jobs = Jobs(tiny_demo.steps(settings))
    monkeypatch.setattr(demo, "job_client", no_cluster)
    monkeypatch.setattr(demo, "run_job", jobs.run)
    return jobs


def test_steps_run_in_order_and_once(tiny_demo: demo.Demo, jobs: Jobs) -> None:
    demo.run_steps(tiny_demo, jobs.steps)
    assert jobs.ran == ORDER
    assert list(storage.read_json(tiny_demo.path("demo.json"))["wall_s"]) == ORDER
    demo.run_steps(tiny_demo, jobs.steps)
    assert jobs.ran == ORDER
    storage.remove_tree(jobs.steps[-1].done)
    demo.run_steps(tiny_demo, jobs.steps)
    assert jobs.ran == [*ORDER, "evaluate"]


def test_trainings_get_what_its_minutes_leave(tmp_path: Path) -> None:
    hurried, settings = demo.open_demo(str(tmp_path), "tiny", [], 10.0)
    steps = {step.name: step for step in hurried.steps(settings)}
    state = {"asked": {}, "wall_s": {"compose": 30.0, "train_codec": 8.0}}
    storage.write_json(hurried.path("demo.json"), state)
    for_both = 600 * (1 - demo.EVALUATION) - 38
    first = for_both * demo.STAGE1 - demo.START_S
    assert demo.allowance(hurried, steps["train_stage1"]) == [f"train.minutes={first / 60:.2f}"]
    state["wall_s"]["train_stage1"] = first + demo.START_S
    storage.write_json(hurried.path("demo.json"), state)
    second = for_both * (1 - demo.STAGE1) - demo.START_S
    assert demo.allowance(hurried, steps["train_stage2"]) == [f"train.minutes={second / 60:.2f}"]
    state["wall_s"]["preprocess"] = 9999.0
    storage.write_json(hurried.path("demo.json"), state)
    assert demo.allowance(hurried, steps["train_stage2"]) == [f"train.minutes={demo.LEAST_S / 60:.2f}"]
    assert [name for name, step in steps.items() if demo.allowance(hurried, step)] == ["train_stage1", "train_stage2"]
    patient = demo.Demo(hurried.out, "tiny", [])
    assert not any(demo.allowance(patient, step) for step in steps.values())


def test_a_failure_stops_the_demo_and_a_second_run_goes_on_from_there(
    tiny_demo: demo.Demo, jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.failing = "preprocess"
    assert demo.main(["--preset", "tiny", "--out", tiny_demo.out, "train.steps=3"]) == 1
    assert "last lines of the log" in capsys.readouterr().err
    assert jobs.ran == ORDER[:3]
    jobs.failing = ""
    demo.run_steps(tiny_demo, jobs.steps)
    assert jobs.ran == ORDER[:3] + ORDER[2:]


def test_a_job_that_leaves_nothing_is_a_failure(tiny_demo: demo.Demo, jobs: Jobs) -> None:
    jobs.silent = "train_codec"
    with pytest.raises(JobFailedError, match=r"train_codec ended without writing .*report\.json"):
        demo.run_steps(tiny_demo, jobs.steps)


def test_commands_hold_absolute_paths_and_the_overrides(tiny_demo: demo.Demo, jobs: Jobs) -> None:
    for step in jobs.steps:
        paths = [
            word.partition("=")[2] or word for word in step.command if "/" in word and not word.startswith("jobs/")
        ]
        assert paths
        assert all(path.startswith(tiny_demo.out) for path in paths)
        if step.command[0] == "python":
            assert step.command[1] == f"jobs/{step.name}.py"
            assert (Path(demo.ROOT) / step.command[1]).exists()
            assert "train.steps=3" in step.command


def test_another_demo_is_not_overwritten(tiny_demo: demo.Demo) -> None:
    demo.open_demo(tiny_demo.out, "tiny", ["train.steps=3"])
    with pytest.raises(UserError, match="holds a demo with other settings"):
        demo.open_demo(tiny_demo.out, "mini", [])


def test_paths_are_the_demos_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.out=/elsewhere: the demo keeps all its data under --out"):
        demo.open_demo(str(tmp_path), "tiny", ["train.out=/elsewhere"])


def test_a_relative_folder_is_refused_inside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="--out runs/demo is relative"):
        demo.open_demo("runs/demo", "tiny", [])


@contextmanager
def started_demo(out: str, *overrides: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo as a process with a temporary folder of its own."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's socket paths must stay under 108 bytes
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "jobs/demo.py", "--preset", "tiny", "--out", out, *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    try:
        with subprocess.Popen(command, cwd=demo.ROOT, env={**environment, "TMPDIR": folder}, **pipes) as process:
            yield process, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_demo(out: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    with started_demo(out, *overrides) as (process, _):
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def processes_naming(text: str) -> list[str]:
    """Command lines of running processes that hold a text (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [line] if text in line else []
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)  # about two minutes on two idle cores
def test_the_demo_itself(tmp_path: Path) -> None:
    out = str(tmp_path / "demo")
    first = run_demo(out)
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-4000:]
    test_noise.check(test_noise.own_lines(first.stdout + first.stderr))
    assert run_demo(out).stdout.count("done already") == len(ORDER)

    summary = storage.read_json(f"{out}/summary.json")
    assert list(summary["wall_s"]) == [*ORDER, "report"]
    assert set(summary["stage1"]["val_nats"]) == set(demo.NATS)
    assert set(summary["stage2"]["frechet"]) == {"real", "coarse_only", "generated"}
    assert summary["codec"]["logmel_l1"] > 0
    for name in ("genre", "lead", "drums", "tempo", "key"):
        assert set(summary["adherence"][name]) == {"real", "codec", "completed", "generated", "shuffled"}
    assert "genre" in summary["adherence"]["free_form"]
    for clip in summary["clips"]:
        assert {"prompt", "path", "seconds", "peak", "rms", "rtf"} <= set(clip)
        assert audio.read(clip["path"]).seconds == clip["seconds"] == 3.0
    assert storage.exists(f"{summary['shards']}/dataset.json")
    assert storage.exists(f"{summary['bundle']}/bundle.json")
    report = storage.read_text(summary["report"])
    assert report.count("<audio") >= len([clip for clip in summary["clips"] if clip["kind"] != "held-out"])
    assert all(storage.exists(f"{out}/logs/{name}.log") for name in ORDER)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_failing_job_ends_the_demo_with_its_log(tmp_path: Path) -> None:
    result = run_demo(str(tmp_path / "demo"), "codec.fit_clips=1", "codec.codebook_size=512")
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "too few to fit codebooks" in result.stderr
    assert not storage.exists(str(tmp_path / "demo" / "tokens"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sigterm_takes_the_cluster_along(tmp_path: Path) -> None:
    with started_demo(str(tmp_path / "demo")) as (process, folder):
        assert process.stdout is not None
        assert any("[compose] step 1" in line for line in process.stdout)
        assert processes_naming(folder)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not processes_naming(folder)
