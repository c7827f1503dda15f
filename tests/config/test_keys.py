"""What is true of each key: the lists below are stated here once more, so that no change of a key goes unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from ssmttm.config import SECTIONS, Config, JobName, load, parse_arguments, with_absolute_paths
from ssmttm.config.sections import Decides
from ssmttm.errors import UserError

JOBS: tuple[Any, ...] = get_args(JobName)
KEYS = {f"{section}.{name}": facts for section, kind in SECTIONS.items() for name, facts in kind.facts().items()}
# A run that is started again may have other values of these, and comes to the same weights (test_continuing.py).
FREE = {
    *("out", "name", "resume", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_best"),
    *("validate_every", "validation_rows", "samples", "samples_every", "log_every", "max_failures", "max_skipped"),
    *("minutes", "continue_with"),
}
# Kept by a run too, unless `train.continue_with` names them.
ARITHMETIC = {
    *("launch", "workers", "cpus_per_worker", "use_gpu", "micro_batch", "zero", "offload", "deepspeed", "precision"),
}
SCHEDULE = {"steps", "schedule", "warmup_steps", "decay_share", "min_lr_ratio"}
IDENTITY = {"data", "global_batch", "lr", "betas", "weight_decay", "clip", "ema", "seed", "init", "init_without"}
# Weights may go on (train.init) with other values of these.
ONLY_TRAINING = {
    "stage1": {"dropout", "token_dropout", "null_probability", "pooled_init_std", "pooled_lr_factor", "crop_frames"}
    | {"controls_alone"},
    "stage2": {"loss", "null_probability", "coarse_null_probability", "crop_frames"},
    "codec": {"fit_clips"},
}
SIZES_OF_VOCODER = ("width", "layers", "kernel_size", "expand", "refine_width", "refine_layers")
READ = {  # paths that a submitted job must name absolutely
    "codec": {"corpus.source", "corpus.rephrased", "codec.path", "train.out", "train.resume", "tracking.uri"},
    "preprocess": {"corpus.source", "corpus.out", "corpus.captioner", "corpus.rephrased", "codec.path", "text.path"},
    "evaluate": {
        *("corpus.source", "corpus.rephrased", "train.data", "evaluate.bundle", "evaluate.out", "evaluate.systems"),
        *("evaluate.audio", "evaluate.prompts", "evaluate.reference", "evaluate.training", "evaluate.training_codes"),
        *("evaluate.clap", "evaluate.tagger", "evaluate.embeddings"),
    },
}
READ["stage1"] = READ["stage2"] = {
    *(f"train.{name}" for name in ("data", "out", "deepspeed", "init", "resume")),
    "tracking.uri",
}
PATHS = sorted(set.union(*READ.values()))
# Texts that name no file: a new one must be marked as a path or listed here.
OTHER_TEXTS = {
    *("corpus.default_licence", "corpus.allow_licences", "train.name", "train.init_without"),
    "train.continue_with",
    *("tracking.experiment", "tracking.parent"),
}
REGISTERED = {  # names of classes
    *("corpus.format", "corpus.controls", "codec.name", "text.encoder", "stage1.backbone", "stage2.denoiser"),
    "train.schedule",
}


def value_of(config: Config, key: str) -> Any:
    section, name = key.split(".")[:2]
    return getattr(getattr(config, section), name)


def with_path(key: str, path: str) -> str:
    """An override; paths of a table and behind a scheme look like it."""
    return f"{key}.ours={path}" if key == "evaluate.systems" else f"{key}={KEYS[key].scheme}{path}"


@pytest.fixture
def in_ray_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")


@pytest.mark.parametrize("key", KEYS)
def test_everything_is_said_of_every_key(key: str) -> None:
    facts, section = KEYS[key], key.split(".")[0]
    assert facts.meaning
    assert "\n" not in facts.meaning
    assert facts.jobs
    assert set(facts.jobs) <= set(JOBS)
    made = section in ("codec", "vocoder", "stage1", "stage2", "train")
    assert facts.decides in get_args(Decides) if made else facts.decides is None
    assert facts.is_path or not (facts.words or facts.scheme)


def test_what_a_run_keeps_is_what_it_was() -> None:
    train = SECTIONS["train"]
    assert set(train.deciding("nothing")) == FREE
    assert set(train.deciding("arithmetic")) == ARITHMETIC
    assert set(train.model_fields) == FREE | ARITHMETIC | SCHEDULE | IDENTITY
    assert set(train.deciding("schedule")) == SCHEDULE
    assert set(train.deciding("model", "training")) == IDENTITY
    for stage in ("stage1", "stage2"):
        assert SECTIONS[stage].deciding("model", "training") == tuple(SECTIONS[stage].model_fields)


def test_what_weights_are_tied_to_is_what_it_was() -> None:
    for section, keys in ONLY_TRAINING.items():
        assert set(SECTIONS[section].deciding("training")) == keys
    assert set(SECTIONS["codec"].deciding("nothing")) == {"path", "vocoder"}
    assert SECTIONS["vocoder"].deciding("model") == SIZES_OF_VOCODER


def test_every_text_is_a_path_or_known_to_be_none() -> None:
    texts = {
        f"{section}.{name}"
        for section, kind in SECTIONS.items()
        for name, field in kind.model_fields.items()
        if "str" in str(field.annotation) and "Literal" not in str(field.annotation)
    }
    assert {key for key, facts in KEYS.items() if facts.is_path} == set(PATHS)
    assert texts - REGISTERED == set(PATHS) | OTHER_TEXTS


@pytest.mark.parametrize("key", PATHS)
def test_every_path_becomes_absolute(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.chdir(tmp_path)
    for given, expected in (("mine/songs", str(tmp_path / "mine/songs")), ("s3://bucket/songs", "s3://bucket/songs")):
        config = with_absolute_paths(load("mini", [with_path(key, given)]), "stage1")
        value = value_of(config, key)
        assert (value["ours"] if key == "evaluate.systems" else value) == KEYS[key].scheme + expected
    for word in KEYS[key].words:
        assert value_of(with_absolute_paths(load("mini", [f"{key}={word}"]), "stage1"), key) == word


def test_a_path_that_is_not_given_stays_so() -> None:
    config = with_absolute_paths(load("mini"), "preprocess")
    assert config.text.path is None
    assert config.evaluate.systems == {}


def test_home_is_meant_by_what_a_shell_leaves_behind_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files' own names it is a character, see tests/test_storage.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    given = {"~/music": "/home/someone/music", "~tilde": f"{tmp_path}/~tilde"}
    for path, meant in given.items():
        assert with_absolute_paths(load("mini", [f"corpus.source={path}"]), "preprocess").corpus.source == meant


def absolute_paths(job: str) -> dict[str, str]:
    return {key: with_path(key, f"/data/{key}") for key in READ[job]}


@pytest.mark.usefixtures("in_ray_job")
@pytest.mark.parametrize(("job", "key"), [(job, key) for job in READ for key in PATHS])
def test_a_ray_job_refuses_relative_paths_that_it_reads(job: Any, key: str) -> None:
    given = [*(absolute_paths(job) | {key: with_path(key, "songs")}).values()]
    if key in READ[job]:
        with pytest.raises(UserError, match=r"songs is relative, and a Ray job .* absolute path or URI") as error:
            parse_arguments("A job.", job, ["--preset", "tiny", *given])
        assert str(error.value).startswith(with_path(key, "songs"))
    else:
        parse_arguments("A job.", job, ["--preset", "tiny", *given])


@pytest.mark.usefixtures("in_ray_job")
@pytest.mark.parametrize("job", READ)
def test_a_ray_job_takes_words_where_they_are_no_paths(job: Any) -> None:
    words = {key: f"{key}={word}" for key in READ[job] for word in KEYS[key].words}
    parse_arguments("A job.", job, ["--preset", "tiny", *(absolute_paths(job) | words).values()])


def test_the_refusal_names_words_that_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    given = absolute_paths("stage1") | {"train.resume": "train.resume=newest"}
    message = r"give auto, never, an absolute path or URI, e\.g\. train\.resume=s3://bucket/newest"
    with pytest.raises(UserError, match=message):
        parse_arguments("A job.", "stage1", [*given.values()])


def test_a_database_on_the_disk_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for other in ("http://tracking:5000", "databricks"):
        kept = with_absolute_paths(load("mini", [f"tracking.uri={other}"]), "stage1")
        assert kept.tracking.uri == other
    config = load("mini", ["tracking.uri=sqlite:///runs.db", "train.data=/d", "train.out=/o"])
    absolute = with_absolute_paths(config, "stage1")
    assert absolute.tracking.uri == f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert with_absolute_paths(absolute, "stage1") == absolute
    with pytest.raises(UserError, match=r"=sqlite:///runs\.db is relative.*=sqlite:////shared/runs\.db"):
        with_absolute_paths(config, "stage1")


@pytest.mark.parametrize("job", READ)
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_tells_of_every_key_that_the_job_reads(
    job: Any, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        parse_arguments("A job.", job, ["--help"])
    text = capsys.readouterr().out.partition("keys and their defaults")[2]
    heads = (line.partition("=")[0].removeprefix("  ") for line in text.splitlines())
    told = [head for head in heads if head in KEYS]
    assert told == [key for key, facts in KEYS.items() if job in facts.jobs]
    words = " ".join(text.split())
    for key in told:
        assert " ".join(KEYS[key].meaning.split()) in words


def test_help_states_defaults_as_overrides_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments("A job.", "stage1", ["--help"])
    text = capsys.readouterr().out
    for line in ("train.use_gpu=false ", "train.name=null ", "train.betas=[0.9, 0.95] ", "train.out=runs "):
        assert f"\n  {line}" in text
    assert "[ray, local]" in text
