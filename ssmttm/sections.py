"""Every configuration key, by section: its type, default, bounds and meaning. `config.py` fills them in."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Backbone = Literal["prefix_simba", "prefix_mamba", "prefix_transformer", "cross_simba", "cross_transformer"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusConfig(Section):
    source: str = Field("runs/demo/corpus", description="folder or URI holding the audio and its manifest.jsonl")
    format: Literal["auto", "manifest", "folder", "mtg-jamendo", "fma"] = Field(
        "auto", description="layout of the source; auto recognises each"
    )
    out: str = Field("runs/demo/tokens", description="folder or URI for the token shards")
    default_licence: str | None = Field(None, description="licence of tracks that state none, e.g. own-work")
    allow_licences: tuple[str, ...] = Field(
        ("public-domain", "CC0-1.0", "CC-BY", "CC-BY-SA", "own-work"), description="licence families let in"
    )
    hours: float = Field(1.0, gt=0, description="hours to compose (demo corpus)")
    clip_seconds: float = Field(10.0, gt=0, description="length of a composed clip")
    segment_seconds: float = Field(10.0, gt=0, description="length of a training segment")
    segments: Literal["all", "middle"] = Field("all", description="all: cut at a fixed hop; middle: one of each track")
    hop_seconds: float | None = Field(None, gt=0, description="from one segment to the next; default: end to end")
    minimum_seconds: float = Field(1.0, gt=0, description="shorter segments are rejected")
    loudness: float | None = Field(
        None, lt=0, description="LUFS (ITU-R BS.1770) every segment is brought to; off: as is"
    )
    silence_dbfs: float = Field(-60.0, lt=0, description="segments whose peak lies below are rejected")
    maximum_clipped: float = Field(0.05, gt=0, le=1, description="share of samples at full scale a segment may have")
    duplicates: Literal["reject", "keep"] = Field("reject", description="the same audio under a second name")
    maximum_rejects: float = Field(1.0, ge=0, le=1, description="share of rejected tracks beyond which the job fails")
    vocals: Literal["keep", "remove"] = Field("keep", description="remove: separate them with demucs (extra: vocals)")
    captioner: str | None = Field(None, description="folder of an audio LLM (Qwen2-Audio) that captions what has none")
    rephrased: str | None = Field(None, description="JSON lines {id, captions} whose captions are added to the tracks'")
    tag_captions: int = Field(3, ge=0, description="captions written from the tags of a track that has none")
    actors: int | None = Field(None, gt=0, description="encoder processes; default: one per CPU, or per GPU if any")
    gpus_per_actor: float = Field(0.0, ge=0, description="share of a GPU that each encoder process takes")
    rows_per_shard: int = Field(128, gt=0)
    captions_per_track: int = Field(6, gt=0, description="captions composed for each piece (demo corpus)")
    seed: int = 0


class CodecConfig(Section):
    name: Literal["mini", "dac", "encodec"] = Field(
        "mini", description="mini: fitted here; dac, encodec: a published checkpoint"
    )
    path: str = Field("runs/demo/codec", description="folder of the fitted or downloaded codec")
    sample_rate: int = 24_000
    fft_size: int = 2048
    hop: int = Field(480, description="samples between mel frames (50 Hz at 24 kHz)")
    num_mels: int = 192
    pca_dim: int = 64
    stack: int = Field(2, description="mel frames per code frame")
    num_codebooks: int = 8
    codebook_size: int = 1024
    griffin_lim_iterations: int = 8
    vocoder: Literal["griffin_lim", "neural"] = Field(
        "griffin_lim", description="neural: train one on top; tokens stay as they are"
    )
    fit_clips: int = Field(400, description="clips used to fit the codec")


class VocoderConfig(Section):
    """The neural vocoder of `mini` (codec.vocoder=neural): its sizes, and how it is trained."""

    width: int = Field(320, gt=0, description="channels of the magnitude network")
    layers: int = Field(0, ge=0, description="its ConvNeXt blocks, over time; 0: no such network")
    kernel_size: int = Field(7, gt=0, description="frames each block sees; odd")
    expand: int = Field(2, gt=0)
    refine_width: int = Field(48, gt=0, description="channels of the network that corrects spectra after Griffin-Lim")
    refine_layers: int = Field(2, ge=0, description="its ConvNeXt blocks, over time and frequency; 0: no such network")
    clips: int = Field(400, gt=0, description="training clips, held in memory")
    steps: int = Field(500, gt=0, description="optimizer steps")
    waveform_from: int = Field(0, ge=0, description="until this step only magnitudes are learned, at a fifth's cost")
    batch: int = Field(6, gt=0, description="crops per step, of about a second each")
    lr: float = Field(3e-3, gt=0)
    warmup_steps: int = 20
    quantised: float = Field(0.5, ge=0, le=1, description="share of crops heard through codes, not continuous latents")
    adversarial: float = Field(0.0, ge=0, description="weight of the discriminators' losses; 0: none")
    adversarial_from: int = Field(250, ge=0, description="step from which they take part")


class TextConfig(Section):
    encoder: Literal["minilm", "transformers"] = "minilm"
    path: str | None = Field(None, description="folder of a transformers text encoder (encoder=transformers)")
    dim: int | None = Field(None, description="dimensions of its states; an encoder with others is refused")
    max_tokens: int = Field(96, description="longer prompts are an error, never cut")
    numbers: bool = Field(
        False, description="a prompt's numbers as places on a scale of tempi, beside each token's state"
    )


class Stage1Config(Section):
    """Prefix language model over codebook 0. Sizes follow Mamba-2's names (arXiv 2405.21060)."""

    backbone: Backbone = "prefix_simba"
    width: int = 256
    layers: int = 6
    state_size: int = 64
    head_dim: int = 64
    expand: int = 2
    conv_kernel: int = 4
    groups: int = 1
    chunk_size: int = 64
    mlp_ratio: float = 2.0
    dropout: float = 0.1
    token_dropout: float = Field(
        0.3, ge=0, lt=1, description="share of input codes hidden in training: leans on the text"
    )
    positions: Literal["none", "sinusoidal"] = "none"
    max_frames: int = Field(0, ge=0, description="longest piece that sinusoidal positions are trained for; 0: any")
    num_codebooks: int = Field(1, description="codebooks modelled by the language model, with the delay pattern")
    null_probability: float = Field(0.1, description="share of samples trained on the null prefix")
    crop_frames: int = Field(
        0, ge=0, description="train on random crops of this many frames, whose beginnings only the text tells; 0: all"
    )
    pooled: bool = Field(True, description="add one text vector in every layer")
    pooled_init_std: float = 0.001
    pooled_lr_factor: float = Field(
        0.15, description="learning rate of the pooled path relative to the rest; at 1 it drowns the music"
    )
    tie_head: bool = Field(True, description="output head shares the token table")
    codebook_features: bool = Field(True, description="token table = learned + linear(codebook vector)")


class Stage2Config(Section):
    """From coarse latents (and text) to fine latents."""

    denoiser: Literal["convnext", "unet", "transformer", "ssm"] = "convnext"
    objective: Literal["flow", "v", "regression"] = Field(
        "flow", description="flow matching; v-prediction on a cosine schedule; or one step without noise"
    )
    loss: Literal["l2", "l1"] = Field("l2", description="squared or absolute error")
    width: int = 256
    layers: int = Field(8, description="blocks; unet: per level on each side")
    kernel_size: int = Field(7, description="convnext")
    expand: int = Field(3, description="inner width of the MLPs relative to width; not unet")
    head_dim: int = Field(64, gt=0, description="transformer, ssm, unet, and attention to the text")
    state_size: int = Field(64, gt=0, description="ssm")
    cross_attention: bool = Field(False, description="every block also looks at the text's token states")
    null_probability: float = Field(0.15, description="share of samples trained without text")
    coarse_null_probability: float = Field(0.0, ge=0, lt=1, description="share trained without coarse latents")
    crop_frames: int = Field(0, description="train on random crops of this many frames; 0: the whole segment")


class TrainConfig(Section):
    data: str = Field("runs/demo/tokens", description="token shards")
    out: str = Field("runs", description="folder or URI that holds all runs")
    name: str | None = Field(None, description="run name; default: the job's")
    steps: int = Field(1000, gt=0, description="optimizer steps")
    minutes: float | None = Field(
        None, gt=0, description="do fewer steps where these would take longer, as the first ones tell"
    )
    launch: Literal["ray", "local"] = Field("ray", description="local: in process, plain torch, without Ray")
    workers: int = Field(1, gt=0)
    cpus_per_worker: float = Field(1, gt=0)
    use_gpu: bool = False
    global_batch: int = Field(16, gt=0, description="sequences per optimizer step over all workers")
    micro_batch: int = Field(8, gt=0, description="sequences per worker and forward pass, at most")
    zero: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none",
        description="what the machine holds for the GPU: optimizer state (zero=1 to 3), or all (zero=3)",
    )
    deepspeed: str | None = Field(None, description="JSON file with further DeepSpeed settings, e.g. bucket sizes")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    lr: float = Field(2e-3, gt=0)
    min_lr_ratio: float = Field(0.02, ge=0, le=1, description="where the rate ends, relative to its peak")
    warmup_steps: int = 100
    schedule: Literal["cosine", "wsd", "constant"] = Field(
        "cosine", description="after the warm-up; wsd: constant, then down over the last steps"
    )
    decay_share: float = Field(0.1, gt=0, le=1, description="share of all steps over which wsd goes down")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0: none")
    seed: int = 0
    init: str | None = Field(None, description="bundle or finished run whose weights to start from: fine-tuning")
    init_without: list[str] = Field(
        [], description="with init: modules and parameters that start at random all the same, by name"
    )
    resume: str = Field("auto", description="auto, never, or the URI of a checkpoint")
    checkpoint_every: int = Field(200, description="optimizer steps between two checkpoints, at most")
    checkpoint_minutes: float | None = Field(None, gt=0, description="save also when the last is this old")
    keep_checkpoints: int = Field(2, description="how many of the newest stay")
    keep_best: bool = Field(False, description="keep the checkpoint of the lowest validation loss besides")
    validate_every: int = 200
    validation_rows: int = 64
    samples: int = Field(2, description="audio samples logged at the end of training")
    samples_every: int = Field(0, ge=0, description="log them also each time so many steps are done; 0: only then")
    log_every: int = 10
    max_failures: int = 2
    max_skipped: int = Field(20, description="non-finite steps in a row before training gives up")


class TrackingConfig(Section):
    enabled: bool = True
    uri: str | None = Field(None, description="MLflow tracking URI; default: sqlite in train.out")
    experiment: str = "ssmttm"
    parent: str | None = Field(None, description="id of the MLflow run that this one is part of; studies set it")


class GenerationConfig(Section):
    """Defaults that travel with the bundle."""

    guidance: float = 2.5
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the likeliest codes that reach this probability")
    steps: int | None = Field(8, description="sampling steps of stage 2; null: in bundles without one")
    solver: Literal["euler", "heun", "ab2", "ancestral"] = Field(
        "euler", description="of stage 2: see model/solvers.py"
    )
    time_grid: Literal["uniform", "sway"] = Field("uniform", description="sway: more of the steps near the noise")
    stage2_guidance: float = 1.0
    stage2_guidance_rescale: float = Field(0.0, ge=0, le=1, description="share by which guidance keeps its deviation")
    stage2_coarse_guidance: float = Field(1.0, description="needs stage2.coarse_null_probability in training")
    stage2_guided_until: float = Field(
        1.0, ge=0, le=1, description="share of data in what stage 2 looks at up to which it is guided; less is faster"
    )
    window_frames: int = Field(100, description="code frames per stage-2 window, context included")
    context_frames: int = Field(24, description="of which finished frames on the left")
    lookahead_frames: int = Field(12, description="and coarse frames on the right")
    first_frames: int = Field(
        24,
        gt=0,
        description="code frames that the first window completes; each later one twice as many, up to all",
    )
    reread_every: int = Field(
        0,
        ge=0,
        description="after so many frames stage 1 reads the prompt again, and the last ones, lest long pieces drift; "
        "with reread_frames no more than it was trained on; 0: never",
    )
    reread_frames: int = Field(64, gt=0, description="last frames that it then reads")
    threads: int = Field(
        1, gt=0, description="of torch on a CPU, on any machine: the last bits of a clip depend on their number"
    )
    max_seconds: float = 600.0
    max_prompt_chars: int = 1000


class EvaluateConfig(Section):
    bundle: str = Field("runs/demo/bundle", description="folder of the model to evaluate")
    out: str = Field("runs/demo/evaluation", description="folder or URI for evaluation.json and the clips")
    clips: int = Field(96, gt=1, description="held-out prompts")
    shown: int = Field(8, gt=0, description="of which made one by one, timed, for the report")
    probe_clips: int = Field(800, gt=1, description="real training clips that the probes learn from")
    free_form: int = Field(32, gt=0, description="prompts in people's own words, of those there are")
    batch: int = Field(16, gt=0, description="clips made at once")
    long_minutes: tuple[float, ...] = Field((), description="marks, in minutes, at which long pieces are measured too")
    long_pieces: int = Field(8, gt=0, description="how many, to the first held-out prompts, as long as the last mark")
    seed: int = 0
    systems: dict[str, str] = Field(
        {}, description="compare these: name to a bundle, a MusicGen checkpoint or a folder of audio"
    )
    audio: str | None = Field(None, description="folder of audio to evaluate instead of a bundle")
    prompts: str = Field(
        "demo", description="of a comparison: demo, held-out, or a CSV (also MusicCaps, Song Describer), JSONL or .txt"
    )
    prompt_subset: bool = Field(False, description="only the subset that MusicCaps or Song Describer results are on")
    reference: str | None = Field(None, description="folder of real audio that distances are taken to")
    training: str | None = Field(None, description="corpus to look for copies in: the beginning of each training track")
    training_codes: str | None = Field(None, description="token shards in which runs of codes are looked for")
    clap: str | None = Field(None, description="folder of a CLAP checkpoint (transformers, safetensors)")
    tagger: str | None = Field(None, description="folder of an AST AudioSet checkpoint (transformers, safetensors)")
    embeddings: str | None = Field(
        None, description="folder of embeddings made elsewhere: SYSTEM.npy, .npz or .safetensors, and reference.*"
    )
    seconds: float = Field(10.0, gt=0, description="of a comparison: length of clips made, and heard of any clip")
    draws: int = Field(200, gt=1, description="bootstrap draws behind each interval")


class Config(Section):
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
