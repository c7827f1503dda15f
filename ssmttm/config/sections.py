"""Every configuration key, by section, and all that is true of it: type, bounds, default, meaning, what it decides,
which jobs read it, and whether it names files. What depends on that (resuming, fine-tuning, a codec's fingerprint,
paths of submitted jobs, `--help`) asks here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ssmttm import licences

JobName = Literal["demo", "codec", "preprocess", "stage1", "stage2", "evaluate"]
# What another value of a key would change:
# model: what trained weights compute; they fit no other. training: what they learn; a run keeps it, but weights may go
# on with another. arithmetic: how a step's work is divided and computed, which shows in what weights learn, if only in
# their last bits; a run keeps it. schedule: the learning rate; it may change as long as the steps already done keep
# theirs. nothing: where, how fast and how often; it may change between two starts of one run, to the same weights.
Decides = Literal["model", "training", "arithmetic", "schedule", "nothing"]

CHANGEABLE: tuple[Decides, ...] = ("training", "arithmetic")

STAGES: tuple[JobName, ...] = ("stage1", "stage2")
TRAININGS: tuple[JobName, ...] = ("codec", *STAGES)
LEARNERS_OF_AUDIO: tuple[JobName, ...] = ("codec", "preprocess")
READERS_OF_AUDIO: tuple[JobName, ...] = ("codec", "preprocess", "evaluate")


@dataclass(frozen=True)
class Facts:
    """What is true of a key besides its type, bounds and default.

    Attributes:
        meaning: in a line.
        jobs: those that read it. `demo` composes the corpus, and passes everything else on.
        decides: see `Decides`; None where what was made is not compared key by key.
        is_path: whether it holds paths or URIs.
        words: values of a path that name no file.
        scheme: what must come before a path, as anything else names no file; empty for all other keys.
    """

    meaning: str
    jobs: tuple[JobName, ...]
    decides: Decides | None
    is_path: bool
    words: tuple[str, ...]
    scheme: str


def key(
    default: Any,
    meaning: str,
    *,
    decides: Decides | None = None,
    jobs: tuple[JobName, ...] = (),
    is_path: bool = False,
    words: tuple[str, ...] = (),
    scheme: str = "",
    **bounds: Any,
) -> Any:
    """A key of a section, with its `Facts`; `decides` and `jobs` default to the section's. `bounds`: as pydantic's."""
    facts = {"decides": decides, "jobs": jobs, "is_path": is_path, "words": words, "scheme": scheme}
    return Field(default, description=meaning, json_schema_extra=facts, **bounds)  # type: ignore[arg-type]


class Section(BaseModel):
    """A table of keys. `jobs` and `decides` hold for keys that say nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    jobs: ClassVar[tuple[JobName, ...]]
    decides: ClassVar[Decides | None] = None

    @classmethod
    def facts(cls) -> dict[str, Facts]:
        """What is true of each key, in their order."""
        found = {}
        for name, field in cls.model_fields.items():
            own: dict[str, Any] = field.json_schema_extra  # type: ignore[assignment]
            inherited = {"jobs": own["jobs"] or cls.jobs, "decides": own["decides"] or cls.decides}
            found[name] = Facts(**{**own, **inherited, "meaning": field.description})
        return found

    @classmethod
    def deciding(cls, *what: Decides) -> tuple[str, ...]:
        """Names of the keys that decide any of these, in their order."""
        return tuple(name for name, facts in cls.facts().items() if facts.decides in what)


class CorpusConfig(Section):
    jobs = ("preprocess",)

    source: str = key(
        "runs/demo/corpus",
        "folder or URI of audio, or of a manifest (*.jsonl)",
        is_path=True,
        jobs=READERS_OF_AUDIO,
    )
    format: str = key(
        "auto",
        "layout of the source: manifest, folder, mtg-jamendo or fma; auto recognises each",
        jobs=READERS_OF_AUDIO,
    )
    out: str = key("runs/demo/tokens", "folder or URI for the token shards", is_path=True)
    default_licence: str | None = key(None, "licence of tracks that state none, e.g. own-work", jobs=LEARNERS_OF_AUDIO)
    allow_licences: tuple[str, ...] = key(
        ("public-domain", "CC0-1.0", "CC-BY", "CC-BY-SA", "own-work"),
        "licences let in: families, as these, or SPDX names in any spelling",
        jobs=LEARNERS_OF_AUDIO,
    )
    hours: float = key(1.0, "hours to compose (demo corpus)", gt=0, jobs=("demo",))
    clip_seconds: float = key(10.0, "length of a composed clip, an excerpt from a longer piece", gt=0, jobs=("demo",))
    segment_seconds: float = key(10.0, "length of a training segment", gt=0, jobs=READERS_OF_AUDIO)
    segments: Literal["all", "middle"] = key("all", "all: cut at a fixed hop; middle: one of each track")
    hop_seconds: float | None = key(None, "from one segment to the next; default: end to end", gt=0)
    minimum_seconds: float = key(1.0, "shorter segments are rejected", gt=0, jobs=LEARNERS_OF_AUDIO)
    loudness: float | None = key(
        None, "LUFS (ITU-R BS.1770) every segment is brought to; off: as is", lt=0, jobs=LEARNERS_OF_AUDIO
    )
    silence_dbfs: float = key(-60.0, "segments whose peak lies below are rejected", lt=0, jobs=LEARNERS_OF_AUDIO)
    maximum_clipped: float = key(
        0.05, "share of samples at full scale a segment may have", gt=0, le=1, jobs=LEARNERS_OF_AUDIO
    )
    duplicates: Literal["reject", "keep"] = key("reject", "the same audio under a second name", jobs=LEARNERS_OF_AUDIO)
    maximum_rejects: float = key(1.0, "share of rejected tracks beyond which the job fails", ge=0, le=1)
    vocals: Literal["keep", "remove"] = key(
        "keep", "remove: separate them with demucs (extra: vocals)", jobs=LEARNERS_OF_AUDIO
    )
    captioner: str | None = key(None, "folder of an audio LLM (Qwen2-Audio) that captions what has none", is_path=True)
    rephrased: str | None = key(
        None,
        "JSON lines {id, captions} whose captions are added to the tracks'",
        is_path=True,
        jobs=READERS_OF_AUDIO,
    )
    tag_captions: int = key(
        3, "captions written from the tags of a track that has none", ge=0, jobs=("preprocess", "evaluate")
    )
    actors: int | None = key(None, "encoder processes; default: one per CPU, or per GPU if any", gt=0)
    gpus_per_actor: float = key(0.0, "share of a GPU that each encoder process takes", ge=0)
    rows_per_shard: int = key(128, "segments in a file", gt=0)
    controls: tuple[str, ...] = key((), "controls by frame that are measured and learned, by their names")
    captions_per_track: int = key(6, "captions composed for each piece (demo corpus)", gt=0, jobs=("demo",))
    seed: int = key(0, "of the composed corpus", jobs=("demo",))

    @field_validator("default_licence", "allow_licences")
    @classmethod
    def _check_licences(cls, value: Any) -> Any:
        for name in (value,) if isinstance(value, str) else value or ():
            if name.strip() and licences.normalise(name) is None:
                raise ValueError(f"'{name}' is no licence that is known; nearest: {', '.join(licences.nearest(name))}")
        return value


class CodecConfig(Section):
    jobs = ("codec",)
    decides = "model"

    name: str = key(
        "mini", "mini: fitted here; dac, encodec: a published checkpoint", jobs=("codec", "preprocess", *STAGES)
    )
    # Trainings compare the codec at a path that was changed with the shards', but only if they can: not a job's input.
    path: str = key(
        "runs/demo/codec",
        "folder of the fitted or downloaded codec",
        is_path=True,
        decides="nothing",
        jobs=("codec", "preprocess"),
    )
    sample_rate: int = key(24_000, "samples per second", gt=0, le=768_000)
    fft_size: int = key(2048, "samples in a window of the spectrum", gt=0, le=16_384)
    hop: int = key(480, "samples between mel frames (50 Hz at 24 kHz)", gt=0)
    num_mels: int = key(192, "mel bands", gt=0, le=512)
    pca_dim: int = key(64, "principal components kept of a mel frame", gt=0)
    stack: int = key(2, "mel frames per code frame", gt=0, le=1024)
    num_codebooks: int = key(8, "codebooks, each of what those before it leave", gt=0, le=256)
    codebook_size: int = key(1024, "entries of a codebook", gt=0, le=32_768)
    griffin_lim_iterations: int = key(8, "of the vocoder without weights", ge=0, le=1000)
    vocoder: Literal["griffin_lim", "neural"] = key(
        "griffin_lim", "neural: train one on top; tokens stay as they are", decides="nothing"
    )
    fit_clips: int = key(400, "clips used to fit the codec", decides="training", gt=0)


class VocoderConfig(Section):
    """The neural vocoder of `mini` (codec.vocoder=neural): its sizes, and how it is trained."""

    jobs = ("codec",)
    decides = "training"

    width: int = key(320, "channels of the magnitude network", gt=0, decides="model")
    layers: int = key(0, "its ConvNeXt blocks, over time; 0: no such network", ge=0, decides="model")
    kernel_size: int = key(7, "frames each block sees; odd", gt=0, decides="model")
    expand: int = key(2, "inner width of a block, relative to its width", gt=0, decides="model")
    refine_width: int = key(
        48, "channels of the network that corrects spectra after Griffin-Lim", gt=0, decides="model"
    )
    refine_layers: int = key(
        2, "its ConvNeXt blocks, over time and frequency; 0: no such network", ge=0, decides="model"
    )
    clips: int = key(400, "training clips, held in memory", gt=0)
    steps: int = key(500, "optimizer steps", gt=0)
    waveform_from: int = key(0, "until this step only magnitudes are learned, at a fifth's cost", ge=0)
    batch: int = key(6, "crops per step, of about a second each", gt=0)
    lr: float = key(3e-3, "peak learning rate", gt=0)
    warmup_steps: int = key(20, "steps until the peak")
    quantised: float = key(0.5, "share of crops heard through codes, not continuous latents", ge=0, le=1)
    adversarial: float = key(0.0, "weight of the discriminators' losses; 0: none", ge=0)
    adversarial_from: int = key(250, "step from which they take part", ge=0)


class TextConfig(Section):
    jobs = ("preprocess",)

    encoder: str = key(
        "minilm", "minilm: comes with the package; transformers: from text.path", jobs=("preprocess", *STAGES)
    )
    path: str | None = key(None, "folder of a transformers text encoder (encoder=transformers)", is_path=True)
    dim: int | None = key(None, "dimensions of its states; an encoder with others is refused")
    max_tokens: int = key(96, "longer prompts are an error, never cut", gt=0, le=100_000)
    numbers: bool = key(
        False,
        "a prompt's numbers as places on a scale of tempi, beside each token's state",
        jobs=("preprocess", *STAGES),
    )


class Stage1Config(Section):
    """Prefix language model over codebook 0. Sizes follow Mamba-2's names (arXiv 2405.21060)."""

    jobs = ("stage1",)
    decides = "model"

    backbone: str = key(
        "prefix_simba",
        "how text comes in and which layers mix frames: prefix_simba, prefix_mamba, "
        "prefix_transformer, cross_simba or cross_transformer",
    )
    width: int = key(256, "channels between layers", gt=0)
    layers: int = key(6, "blocks", gt=0)
    state_size: int = key(64, "of each channel of a state-space layer", gt=0)
    head_dim: int = key(64, "channels of a head", gt=0)
    expand: int = key(2, "inner width of a state-space layer, relative to width", gt=0)
    conv_kernel: int = key(4, "frames that its short convolution sees", gt=0)
    groups: int = key(1, "of heads that share what writes and reads the state", gt=0)
    chunk_size: int = key(64, "frames computed at once in training", gt=0, le=65_536)
    mlp_ratio: float = key(2.0, "inner width of the MLPs, relative to width", gt=0)
    dropout: float = key(0.1, "share of a block's output dropped in training", decides="training", ge=0, lt=1)
    token_dropout: float = key(
        0.3, "share of input codes hidden in training: leans on the text", ge=0, lt=1, decides="training"
    )
    positions: Literal["none", "sinusoidal"] = key("none", "added to the codes' embeddings")
    max_frames: int = key(0, "longest piece that sinusoidal positions are trained for; 0: any", ge=0)
    num_codebooks: int = key(1, "codebooks modelled by the language model, with the delay pattern", gt=0)
    null_probability: float = key(0.1, "share of samples trained on the null prefix", decides="training", ge=0, le=1)
    controls_alone: float = key(
        0.4,
        "share of samples with controls by frame that are trained without their text, which tells some of them",
        ge=0,
        le=1,
        decides="training",
    )
    crop_frames: int = key(
        0,
        "train on random crops of this many frames, whose beginnings only the text tells; 0: all",
        ge=0,
        decides="training",
    )
    pooled: bool = key(True, "add one text vector in every layer")
    pooled_init_std: float = key(0.001, "of the pooled path's weights at the start", decides="training", ge=0)
    pooled_lr_factor: float = key(
        0.15,
        "learning rate of the pooled path relative to the rest; at 1 it drowns the music",
        decides="training",
    )
    tie_head: bool = key(True, "output head shares the token table")
    codebook_features: bool = key(True, "token table = learned + linear(codebook vector)")


class Stage2Config(Section):
    """From coarse latents (and text) to fine latents."""

    jobs = ("stage2",)
    decides = "model"

    denoiser: str = key("convnext", "the network, by its name in DENOISERS: convnext, unet, transformer or ssm")
    objective: Literal["flow", "v", "regression"] = key(
        "flow", "flow matching; v-prediction on a cosine schedule; or one step without noise"
    )
    loss: Literal["l2", "l1"] = key("l2", "squared or absolute error", decides="training")
    width: int = key(256, "channels", gt=0)
    layers: int = key(8, "blocks; unet: per level on each side", gt=0)
    kernel_size: int = key(7, "convnext", gt=0)
    expand: int = key(3, "inner width of the MLPs relative to width; not unet", gt=0)
    head_dim: int = key(64, "transformer, ssm, unet, and attention to the text", gt=0)
    state_size: int = key(64, "ssm", gt=0)
    cross_attention: bool = key(False, "every block also looks at the text's token states")
    null_probability: float = key(0.15, "share of samples trained without text", decides="training", ge=0, le=1)
    coarse_null_probability: float = key(0.0, "share trained without coarse latents", ge=0, lt=1, decides="training")
    crop_frames: int = key(
        0, "train on random crops of this many frames; 0: the whole segment", decides="training", ge=0
    )


class TrainConfig(Section):
    jobs = STAGES
    decides = "training"

    data: str = key("runs/demo/tokens", "token shards", is_path=True, jobs=(*STAGES, "evaluate"))
    out: str = key("runs", "folder or URI that holds all runs", is_path=True, decides="nothing", jobs=TRAININGS)
    name: str | None = key(None, "run name; default: the job's", decides="nothing", jobs=TRAININGS)
    steps: int = key(1000, "optimizer steps", gt=0, decides="schedule")
    minutes: float | None = key(
        None, "do fewer steps where these would take longer, as the first ones tell", gt=0, decides="nothing"
    )
    launch: Literal["ray", "local"] = key(
        "ray",
        "local: in process, plain torch, without Ray",
        decides="arithmetic",
        jobs=("codec", "preprocess", *STAGES, "evaluate"),
    )
    workers: int = key(1, "processes that share a step's work", gt=0, decides="arithmetic", jobs=TRAININGS)
    cpus_per_worker: float = key(1, "CPUs that each takes", gt=0, decides="arithmetic", jobs=TRAININGS)
    use_gpu: bool = key(False, "a GPU for each", decides="arithmetic", jobs=(*TRAININGS, "evaluate"))
    global_batch: int = key(16, "sequences per optimizer step over all workers", gt=0)
    micro_batch: int = key(8, "sequences per worker and forward pass, at most", gt=0, decides="arithmetic")
    zero: Literal[0, 1, 2, 3] = key(0, "stage of DeepSpeed's ZeRO", decides="arithmetic")
    offload: Literal["none", "optimizer", "parameters"] = key(
        "none",
        "what the machine holds for the GPU: optimizer state (zero=1 to 3), or all (zero=3)",
        decides="arithmetic",
    )
    deepspeed: str | None = key(
        None, "JSON file with further DeepSpeed settings, e.g. bucket sizes", is_path=True, decides="arithmetic"
    )
    precision: Literal["auto", "fp32", "bf16"] = key(
        "auto", "auto: bf16 where the machine computes in it", decides="arithmetic", jobs=TRAININGS
    )
    lr: float = key(2e-3, "peak learning rate", gt=0)
    min_lr_ratio: float = key(
        0.02, "where the rate ends, relative to its peak", ge=0, le=1, decides="schedule", jobs=TRAININGS
    )
    warmup_steps: int = key(100, "steps until the peak", decides="schedule")
    schedule: str = key(
        "cosine",
        "after the warm-up: cosine, constant, or wsd (constant, then down over the last steps)",
        decides="schedule",
    )
    decay_share: float = key(0.1, "share of all steps over which wsd goes down", gt=0, le=1, decides="schedule")
    betas: tuple[float, float] = key((0.9, 0.95), "of AdamW", jobs=TRAININGS)
    weight_decay: float = key(0.05, "of AdamW, on matrices")
    clip: float = key(1.0, "largest norm of a gradient", jobs=TRAININGS)
    ema: float = key(0.0, "decay of the averaged weights; 0: none", ge=0, lt=1)
    seed: int = key(0, "of initial weights, order and draws", jobs=TRAININGS)
    init: str | None = key(None, "bundle or finished run whose weights to start from: fine-tuning", is_path=True)
    init_without: list[str] = key([], "with init: modules and parameters that start at random all the same, by name")
    resume: str = key(
        "auto",
        "auto, never, or the URI of a checkpoint",
        is_path=True,
        words=("auto", "never"),
        decides="nothing",
        jobs=TRAININGS,
    )
    continue_with: list[str] = key(
        [],
        "settings, such as data, that a run may go on with though it was started with others; run and card say so",
        decides="nothing",
    )
    checkpoint_every: int = key(
        200, "optimizer steps between two checkpoints, at most", decides="nothing", jobs=TRAININGS
    )
    checkpoint_minutes: float | None = key(
        None, "save also when the last is this old", gt=0, decides="nothing", jobs=TRAININGS
    )
    keep_checkpoints: int = key(2, "how many of the newest stay", decides="nothing", jobs=TRAININGS)
    keep_best: bool = key(False, "keep the checkpoint of the lowest validation loss besides", decides="nothing")
    validate_every: int = key(200, "optimizer steps between two validations", decides="nothing")
    validation_rows: int = key(64, "held-out segments of each", decides="nothing")
    samples: int = key(2, "audio samples logged at the end of training", decides="nothing")
    samples_every: int = key(0, "log them also each time so many steps are done; 0: only then", ge=0, decides="nothing")
    log_every: int = key(10, "optimizer steps between two lines", decides="nothing", jobs=TRAININGS)
    max_failures: int = key(2, "times that Ray starts the training again", decides="nothing", jobs=TRAININGS)
    max_skipped: int = key(20, "non-finite steps in a row before training gives up", decides="nothing", jobs=TRAININGS)

    @field_validator("continue_with")
    @classmethod
    def _check_names(cls, value: list[str]) -> list[str]:
        may = changeable(*STAGES)
        for name in value:
            if full_name(name) not in may:
                (nearest,) = difflib.get_close_matches(full_name(name), may, n=1, cutoff=0.0)
                raise ValueError(f"'{name}' is no setting that a run may go on with another of; nearest: {nearest}")
        return value


def full_name(key: str) -> str:
    """The dotted name of a key that may leave out its section, `train`."""
    return key if "." in key else f"train.{key}"


def changeable(*stages: str) -> list[str]:
    """Dotted names of what a run keeps unless `train.continue_with` names it: all that decides what weights learn, but
    for their own shape and what they began with."""
    kinds: dict[str, type[Section]] = {"stage1": Stage1Config, "stage2": Stage2Config, "train": TrainConfig}
    names = [f"{section}.{name}" for section in ("train", *stages) for name in kinds[section].deciding(*CHANGEABLE)]
    return [name for name in names if name not in ("train.init", "train.init_without")]


class TrackingConfig(Section):
    jobs = TRAININGS

    enabled: bool = key(True, "log runs to MLflow")
    uri: str | None = key(None, "MLflow tracking URI; default: sqlite in train.out", is_path=True, scheme="sqlite:///")
    experiment: str = key("ssmttm", "that runs are listed under")
    parent: str | None = key(None, "id of the MLflow run that this one is part of; studies set it")


class GenerationConfig(Section):
    """Defaults that travel with the bundle."""

    jobs = STAGES

    guidance: float = key(2.5, "how far codes are pushed towards the prompt; 1: not at all", ge=0, le=20)
    temperature: float = key(1.0, "of the draws; lower: likelier codes", ge=0, le=5)
    top_k: int = key(250, "draw among so many likeliest codes", ge=0, le=100_000)
    top_p: float = key(1.0, "draw among the likeliest codes that reach this probability", gt=0, le=1)
    steps: int | None = key(8, "sampling steps of stage 2; null: in bundles without one", ge=1, le=200)
    solver: Literal["euler", "heun", "ab2", "ancestral"] = key("euler", "of stage 2: see model/solvers.py")
    time_grid: Literal["uniform", "sway"] = key("uniform", "sway: more of the steps near the noise")
    stage2_guidance: float = key(1.0, "as guidance, of stage 2")
    stage2_guidance_rescale: float = key(0.0, "share by which guidance keeps its deviation", ge=0, le=1)
    stage2_coarse_guidance: float = key(1.0, "needs stage2.coarse_null_probability in training")
    stage2_guided_until: float = key(
        1.0, "share of data in what stage 2 looks at up to which it is guided; less is faster", ge=0, le=1
    )
    window_frames: int = key(100, "code frames per stage-2 window, context included", gt=0, le=100_000)
    context_frames: int = key(24, "of which finished frames on the left", ge=0)
    lookahead_frames: int = key(12, "and coarse frames on the right", ge=0)
    first_frames: int = key(
        24, "code frames that the first window completes; each later one twice as many, up to all", gt=0
    )
    reread_every: int = key(
        0,
        "after so many frames stage 1 reads the prompt again, and the last ones, so that long pieces do not drift; "
        "with reread_frames no more than it was trained on; 0: never",
        ge=0,
    )
    reread_frames: int = key(64, "last frames that it then reads", gt=0)
    threads: int = key(
        1, "of torch on a CPU, on any machine: the last bits of a clip depend on their number", gt=0, le=1024
    )
    max_seconds: float = key(600.0, "longest piece that may be asked for", gt=0)
    max_prompt_chars: int = key(1000, "longest prompt that may be asked with", gt=0, le=1_000_000)


class EvaluateConfig(Section):
    jobs = ("evaluate",)

    bundle: str = key("runs/demo/bundle", "folder of the model to evaluate", is_path=True)
    out: str = key("runs/demo/evaluation", "folder or URI for evaluation.json and the clips", is_path=True)
    clips: int = key(96, "held-out prompts", gt=1)
    shown: int = key(8, "of which made one by one, timed, for the report", gt=0)
    probe_clips: int = key(800, "real training clips that the probes learn from", gt=1)
    free_form: int = key(32, "prompts in people's own words, of those there are", gt=0)
    batch: int = key(16, "clips made at once", gt=0)
    long_minutes: tuple[float, ...] = key((), "marks, in minutes, at which long pieces are measured too")
    long_pieces: int = key(8, "how many, to the first held-out prompts, as long as the last mark", gt=0)
    seed: int = key(0, "of choices and draws")
    systems: dict[str, str] = key(
        {}, "compare these: name to a bundle, a MusicGen checkpoint or a folder of audio", is_path=True
    )
    audio: str | None = key(None, "folder of audio to evaluate instead of a bundle", is_path=True)
    prompts: str = key(
        "demo",
        "of a comparison: demo, held-out, or a CSV (also MusicCaps, Song Describer), JSONL or .txt",
        is_path=True,
        words=("demo", "held-out"),
    )
    prompt_subset: bool = key(False, "only the subset that MusicCaps or Song Describer results are on")
    reference: str | None = key(None, "folder of real audio that distances are taken to", is_path=True)
    training: str | None = key(None, "corpus to look for copies in: the beginning of each training track", is_path=True)
    training_codes: str | None = key(None, "token shards in which runs of codes are looked for", is_path=True)
    clap: str | None = key(None, "folder of a CLAP checkpoint (transformers, safetensors)", is_path=True)
    tagger: str | None = key(None, "folder of an AST AudioSet checkpoint (transformers, safetensors)", is_path=True)
    embeddings: str | None = key(
        None,
        "folder of embeddings made elsewhere: SYSTEM.npy, .npz or .safetensors, and reference.*",
        is_path=True,
    )
    seconds: float = key(10.0, "of a comparison: length of clips made, and heard of any clip", gt=0)
    draws: int = key(200, "bootstrap draws behind each interval", gt=1)


class Config(BaseModel):
    """A resolved configuration: the preset's name, and the sections."""

    model_config = Section.model_config

    preset: str = "mini"
    corpus: CorpusConfig = CorpusConfig()
    codec: CodecConfig = CodecConfig()
    vocoder: VocoderConfig = VocoderConfig()
    text: TextConfig = TextConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    generation: GenerationConfig = GenerationConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


SECTIONS: dict[str, type[Section]] = {
    name: kind
    for name, field in Config.model_fields.items()
    if isinstance(kind := field.annotation, type) and issubclass(kind, Section)
}
