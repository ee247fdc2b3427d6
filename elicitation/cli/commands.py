"""Commands: what the command line can be asked to do, as values; their docstrings are its help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from elicitation.cli.feature_commands import (
    AttributeCommand,
    Blocks,
    DeviceName,
    FeaturesCommand,
    OptionalInt,
    OptionalPath,
    OptionalText,
    RayFlag,
    SaeCommand,
    TaxonomyCommand,
    Texts,
)
from elicitation.cli.pair_commands import PairsCommand
from elicitation.cli.vector_commands import VectorsCommand


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Measure how much of a tuned model's gain its base model already had, and write a report.

    Example: lab study --pair zero-base zero-rl --task chain --out runs/zero-rl

    Everything lands in --out; a study that was stopped goes on when the same command is given again.
    """

    pair: Annotated[tuple[str, ...], tyro.conf.arg(metavar="BASE TUNED")]
    """The base model and the model tuned from it, or one model that ships with the package, whose parent is then the
    base. Names of organisms (`lab organisms list`) or of pairs (`lab pairs list`), directories of transformers
    checkpoints or LoRA adapters, GGUF files, or hub names."""
    task: OptionalText = None
    """chain, chain:OPERATORS, chain:OPERATORS:FEWEST-MOST, a mix of these such as 25%chain:#,75%chain:+-, gym:DATASET,
    gym:DATASET:OPTION=VALUE,..., hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]], or a path to GSM8K- or MATH-shaped .jsonl.
    If not given, the pair's own task where the package knows it, else chain."""
    old_task: OptionalText = None
    """A task that the tuning was not about; with it, the report says what was forgotten."""
    out: Path
    """Directory of the results."""
    companions: Texts = ()
    """Further models whose pass@k curves are drawn beside the pair's."""
    n_problems: int = 200
    """Held-out problems."""
    n_samples: int = 16
    """Samples of each problem in every arm of the ladder."""
    n_curve_samples: int = 64
    """Samples of each problem by the models themselves, for pass@k."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Points of the pass@k curves."""
    n_fit_problems: int = 200
    """Training problems that vectors are fitted on."""
    layer: OptionalInt = None
    """Block at whose output vectors act, from 0; the middle one if not given."""
    feature_layers: Blocks = ()
    """Blocks at whose outputs features are sought, by sparse autoencoders of the base model; none if not given."""
    published_hybrids: bool = False
    """Also run two published hybrids, with each of their faults switched."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: OptionalInt = None
    """Longest completion; 96 if neither this nor the pair's own task says another."""
    stop: Texts = ()
    """Texts that end a completion; those of the pair's own task, if it has any, where none is given."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""
    batch_size: int = 256
    """Rows decoded at once."""
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is bfloat16 on cuda, float32 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Run the study of organism zero, whose models come with the package, and say where its report is.

    Example: lab demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """Directory of the results."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""


@dataclass(frozen=True, kw_only=True)
class CalibrateCommand:
    """Score every estimator on the organisms, whose true elicited share is known, and write a page about it.

    Example: lab calibrate --quick --out runs/calibration

    A calibration that was stopped goes on when the same command is given again.
    """

    quick: bool = False
    """Fewer problems, samples and resamples, and the path test that ships with the package instead of a new one."""
    only: Texts = ()
    """Organisms to keep to, such as locked taught; all with a known answer when not given."""
    out: OptionalPath = None
    """Directory of the results: runs/calibration, or runs/calibration-quick, if not given."""
    seed: int = 0
    """Decides problems, samples, vectors and intervals."""
    jobs: int = 0
    """Cases at once, each on one thread; as many as there are cores when 0."""
    device: DeviceName = "auto"


@dataclass(frozen=True, kw_only=True)
class SampleCommand:
    """Sample completions of a task by one model, and verify them.

    Example: lab sample --model zero-rl --task chain --n-samples 8 --out runs/traces.parquet
    """

    model: str
    """An organism, a directory, a GGUF file or a hub name."""
    task: str = "chain"
    """As in `lab study`."""
    out: Path
    """Parquet file of the traces; verdicts and problems go beside it, as NAME.verdicts.parquet and
    NAME.problems.parquet."""
    n_problems: int = 100
    """Held-out problems."""
    n_samples: int = 8
    """Samples of each."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; leave at 1 to measure coverage."""
    max_new_tokens: int = 96
    """Longest completion."""
    stop: Texts = ()
    """Texts that end a completion."""
    seed: int = 0
    """Decides problems and samples."""
    batch_size: int = 256
    """Rows decoded at once."""
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights."""


@dataclass(frozen=True, kw_only=True)
class BuildCommand:
    """Train an organism from its definition.

    Example: lab organisms build zero-base --seed 0 --out runs/organisms
    """

    name: Annotated[str, tyro.conf.Positional]
    """One of the names that `lab organisms list` shows."""
    seed: int = 0
    """Decides weights, data and rollouts."""
    device: DeviceName = "auto"
    out: Path = Path("runs/organisms")
    """Directory that gets a directory of the organism's name."""


@dataclass(frozen=True, kw_only=True)
class ListCommand:
    """List the organisms: what each is, and what it can do.

    Example: lab organisms list
    """


@dataclass(frozen=True, kw_only=True)
class OrganismsCommand:
    """Small models whose history is known: build them, list them.

    Example: lab organisms list
    """

    do: Annotated[
        Annotated[BuildCommand, tyro.conf.subcommand("build")] | Annotated[ListCommand, tyro.conf.subcommand("list")],
        tyro.conf.arg(name=""),
    ] = field(default_factory=ListCommand)


@dataclass(frozen=True, kw_only=True)
class CaptureRunCommand:
    """Read traces with a model, and store its activations at some sites: safetensors in shards, and an index.

    Example: lab capture run --model zero-rl --traces traces.parquet --sites blocks.2.hook_resid_post --out runs/acts

    A capture that was stopped goes on when the same command is given again, and ends with the same bytes.
    """

    model: str
    """The model that reads, not always the one that wrote: an organism, a directory, a GGUF file or a hub name."""
    traces: Path
    """Parquet file of traces, as `lab sample` and every stage of `lab study` write them."""
    problems: OptionalPath = None
    """Parquet file of their problems, which hold the prompts. That of `lab sample` lies beside the traces and is found;
    a study keeps its own in its directory problems."""
    sites: tuple[str, ...]
    """Places in the model, such as blocks.2.hook_resid_post or blocks.0.hook_resid_pre; blocks count from 0."""
    positions: tuple[str, ...] = ("completion",)
    """Tokens to keep: all, completion, ends (where a sentence or a line ends; other marks may be given, as in
    `ends ";"`), or tokens with the texts of some tokens."""
    out: Path
    """Directory of the store."""
    stored_dtype: Literal["model", "float32", "bfloat16", "float16"] = "model"
    """Precision of the activations on disk; model is that of the weights."""
    shard_mib: float = 256.0
    """Size of a shard, all sites together; one is held in memory at a time."""
    batch_tokens: int = 8192
    """Tokens read at once."""
    ray: RayFlag = None
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights."""


@dataclass(frozen=True, kw_only=True)
class CaptureVerifyCommand:
    """Check every file of a store against its checksum, and name those that are damaged.

    Example: lab capture verify runs/acts
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Directory of the store."""


@dataclass(frozen=True, kw_only=True)
class CaptureRepairCommand:
    """Capture the damaged shards of a store again, and leave the others alone.

    Example: lab capture repair runs/acts
    """

    store: Annotated[Path, tyro.conf.Positional]
    """Directory of the store; its manifest says which model is needed."""


@dataclass(frozen=True, kw_only=True)
class CaptureCommand:
    """Store what a model computes inside while it reads traces; check and mend such stores.

    Example: lab capture run --model zero-rl --traces traces.parquet --sites blocks.2.hook_resid_post --out runs/acts
    """

    do: Annotated[
        Annotated[CaptureRunCommand, tyro.conf.subcommand("run")]
        | Annotated[CaptureVerifyCommand, tyro.conf.subcommand("verify")]
        | Annotated[CaptureRepairCommand, tyro.conf.subcommand("repair")],
        tyro.conf.arg(name=""),
    ]


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a steering vector for another program, and a card that says what it is and how to use it there.

    Example: lab export --vector runs/demo/vectors/first_token.safetensors --format gguf --out first_token.gguf

    Files of other programs are read too: GGUF control vectors (repeng, EasySteer), vllm-lens JSON.
    """

    vector: Path
    """File of the vector, in any of the formats."""
    format: Literal["safetensors", "gguf", "vllm-lens", "layer-table", "baked", "adapter"] = "gguf"
    """safetensors: this lab's own file; gguf: llama.cpp, repeng, EasySteer; vllm-lens: JSON; layer-table: one tensor
    for programs whose own files are pickles; baked: a checkpoint with the vector in its biases, which plain
    transformers and vLLM serve unchanged; adapter: a PEFT adapter."""
    out: Path
    """File, or for baked and adapter the directory, to write."""
    model: OptionalText = None
    """The model that the vector was fitted on, as in `lab sample`; needed for baked and adapter, and where the file
    does not say it. With it, the vector is checked to fit."""
    dose: float = 1.0
    """Strength, which is written into the numbers."""
    study: OptionalPath = None
    """A study whose ladder holds the vector's measured effect, for the card."""
    arms: tuple[str, ...] = ("fitted-first-token", "fitted-greedy")
    """Arms of that study that used the vector."""
    card: OptionalPath = None
    """Markdown file of the card; OUT with .md appended if not given."""
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME", help_behavior_hint="")] = None
    """Repository of the Hugging Face hub that also gets the export, and its card as README.md; nothing is uploaded if
    not given. It is made, private, where it is not there; one that is there keeps its visibility. Needs a token
    (`hf auth login`, or HF_TOKEN)."""
    device: DeviceName = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights of a baked checkpoint."""


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Check this installation: versions, devices, memory, disk, models that come with it, and what each extra lacks.

    Example: lab doctor

    Nothing is asked of any network. The exit code is 1 where something is broken that the core needs, else 0.
    """

    json: bool = False
    """Print the findings as JSON, for a report of a fault."""


Work = (
    Annotated[DemoCommand, tyro.conf.subcommand("demo")]
    | Annotated[StudyCommand, tyro.conf.subcommand("study")]
    | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
    | Annotated[SampleCommand, tyro.conf.subcommand("sample")]
    | Annotated[CaptureCommand, tyro.conf.subcommand("capture")]
    | Annotated[SaeCommand, tyro.conf.subcommand("sae")]
    | Annotated[FeaturesCommand, tyro.conf.subcommand("features")]
    | Annotated[AttributeCommand, tyro.conf.subcommand("attribute")]
    | Annotated[TaxonomyCommand, tyro.conf.subcommand("taxonomy")]
    | Annotated[VectorsCommand, tyro.conf.subcommand("vectors")]
    | Annotated[ExportCommand, tyro.conf.subcommand("export")]
    | Annotated[OrganismsCommand, tyro.conf.subcommand("organisms")]
    | Annotated[PairsCommand, tyro.conf.subcommand("pairs")]
)
"""What `elicitation.cli.run` does."""

Command = Work | Annotated[DoctorCommand, tyro.conf.subcommand("doctor")]
