"""Feature commands: what the command line can be asked about features, as values; their docstrings are its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

DEVICE_HELP = "auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps"
DeviceName = Annotated[str, tyro.conf.arg(help=DEVICE_HELP)]

# What is not given has no default worth showing: the help says what happens then.
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Texts = Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")]
Blocks = Annotated[tuple[int, ...], tyro.conf.arg(help_behavior_hint="")]

RAY_HELP = """Work in processes of Ray's: alone, on this machine; with an address or auto, on a running cluster whose
machines see the same files. A worker takes as many cores as OMP_NUM_THREADS says, or a GPU. Same bytes as without."""
RayFlag = Annotated[
    tuple[()] | tuple[str] | None, tyro.conf.arg(help=RAY_HELP, metavar="[ADDRESS]", help_behavior_hint="")
]


@dataclass(frozen=True, kw_only=True)
class SaeTrainCommand:
    """Train sparse autoencoders on a store of activations, in SAELens' format, and judge them on held-out problems.

    Example: lab sae train --store runs/acts --architectures topk:16 batchtopk:16 --sizes 512 1024 --out runs/saes

    One for each site, architecture and size, in OUT/SITE/ARCHITECTURE-SIZE, and quality.parquet beside them. A run that
    was stopped goes on when the same command is given again; an autoencoder that is there is not trained twice.
    """

    store: Path
    """Directory of the store, as `lab capture run` writes it; --positions all serves best."""
    sites: Texts = ()
    """Places in the model, such as blocks.2.hook_resid_post; all of the store's when not given."""
    architectures: tuple[str, ...] = ("topk:16",)
    """topk:K, batchtopk:K, matryoshka:K, jumprelu:L0_COEFFICIENT or standard:L1_COEFFICIENT, such as standard:1."""
    sizes: tuple[int, ...]
    """Numbers of features; four to thirty-two times d_model is usual."""
    out: Path
    """Directory of the results."""
    n_tokens: int = 500_000
    """Activations that each learns from, those of repeated epochs counted again."""
    batch_size: int = 1024
    """Activations a step."""
    lr: OptionalFloat = None
    """Highest learning rate; 5e-4 * sqrt(16384 / size) when not given."""
    held_out_share: float = 0.1
    """Share of the problems that are kept back for the quality table."""
    seed: int = 0
    """Decides weights and batches."""
    ray: RayFlag = None
    device: DeviceName = "auto"


@dataclass(frozen=True, kw_only=True)
class FeaturesCommand:
    """Score all features of a sparse autoencoder on a store of activations: tables, and a page to look at them.

    Example: lab features --sae runs/saes/blocks.2.hook_resid_post/topk-16-512 --store runs/acts --out runs/features

    How often and where each fires, ReasonScore, what it does to the logits, its contexts, and probes of labels.
    """

    sae: Path
    """Directory of an SAE in SAELens' format."""
    store: Path
    """Directory of the base model's activations."""
    tuned_store: OptionalPath = None
    """Directory of the tuned model's activations of the same texts; with it, the page says which features changed."""
    labels: Literal["words", "steps", "none"] = "words"
    """What tokens are: words of reasoning (wait, therefore, ...), or exact steps of the chain world."""
    problems: OptionalPath = None
    """Parquet file of the texts' problems; steps need it."""
    effects: OptionalPath = None
    """Directory that `lab attribute` wrote for this SAE; with it, features are ranked by their effect."""
    out: Path
    """Directory of the results."""
    n_shown: int = 20
    """Features whose contexts and logit effects are kept; the page has cards of the first twelve."""
    seed: int = 0
    """Decides probes and intervals."""
    device: DeviceName = "auto"


@dataclass(frozen=True, kw_only=True)
class AttributeCommand:
    """Measure what every feature of a sparse autoencoder adds to a difference of logits, text by text, in shards.

    Example: lab attribute --model zero-rl --sae runs/saes/SITE/topk-16-512 --toward T --against A --out runs/effects

    A run that was stopped goes on when the same command is given again, and ends with the same bytes.
    """

    model: str
    """The model that reads, not always the one that the SAE learnt: an organism, directory, GGUF file or hub name."""
    sae: Path
    """Directory of an SAE in SAELens' format."""
    task: str = "chain"
    """As in `lab study`."""
    toward: Texts = ()
    """First tokens of answers whose log-odds are explained, such as T for a worked chain."""
    against: Texts = ()
    """First tokens that they are weighed against, such as A for a direct answer."""
    traces: OptionalPath = None
    """Instead of --toward and --against: traces of the task, in which the right answer is weighed against a wrong one
    where it is stated; those whose place cannot be told are left out and counted."""
    method: Literal["ablation", "joint-ablation", "gradient", "integrated"] = "gradient"
    """ablation is exact and slow; gradient ranks much alike; integrated sums to what all features do together."""
    n_steps: int = 64
    """Steps of integrated gradients. How far they miss what they should sum to is printed: a network of 30 blocks took
    512."""
    out: Path
    """Directory of the results."""
    n_problems: int = 200
    """Held-out problems; with --traces, as many as they were sampled from."""
    seed: int = 0
    """Decides problems and intervals."""
    batch: int = 64
    """Texts, and streams above the site, that pass at once."""
    shard_texts: int = 256
    """Texts of a shard."""
    ray: RayFlag = None
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights; ablation wants float32."""


@dataclass(frozen=True, kw_only=True)
class SaeCompareCommand:
    """Compare a base model with a tuned one: latents that both have, or one alone, beside a pair that was not tuned.

    Example: lab sae compare --pair runs/acts-base runs/acts-rl --placebo runs/acts-p0 runs/acts-p1 --out runs/diff

    A BatchTopK crosscoder with latent scaling, trained on both models' activations of the same tokens. Nothing is said
    of what tuning did without --placebo, since two models that were only trained on differ too.
    """

    pair: Annotated[tuple[Path, Path], tyro.conf.arg(metavar="BASE TUNED")]
    """Directories of the stores of the base and the tuned model, captured from the same texts."""
    placebo: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="BASE LATER", help_behavior_hint="")] = None
    """The same of a model and itself after some more pretraining."""
    site: OptionalText = None
    """Place in the models; that of the stores when they have one only."""
    d_sae: int = 1024
    """How many latents."""
    k: int = 16
    """Latents a token, on average."""
    n_steps: int = 600
    """Batches of 2048 tokens."""
    out: Path
    """Directory of the results."""
    seed: int = 0
    """Decides weights and batches."""
    device: DeviceName = "auto"


@dataclass(frozen=True, kw_only=True)
class TaxonomyCommand:
    """Sort steps or sentences of reasoning into categories by a small clustering autoencoder, and judge the categories.

    Example: lab taxonomy --store runs/acts --segments steps --problems traces.problems.parquet --out runs/taxonomy
    """

    store: Path
    """Directory of the activations that are sorted, of all tokens (`lab capture run --positions all`)."""
    segments: Literal["steps", "sentences"] = "sentences"
    """steps are exact ones of the chain world, with labels to judge by; sentences have none."""
    problems: OptionalPath = None
    """Parquet file of the texts' problems; steps need it."""
    sites: Texts = ()
    """Places in the model; all of the store's when not given."""
    sizes: tuple[int, ...] = (5, 10, 15)
    """Numbers of categories."""
    ks: tuple[int, ...] = (1, 3)
    """Categories that a segment is written with."""
    n_seeds: int = 3
    """Fits of each, by which stability is judged."""
    out: Path
    """Directory of the results: taxonomies as safetensors, their quality and contents as tables."""
    seed: int = 0
    """Decides fits and intervals."""


@dataclass(frozen=True, kw_only=True)
class SaeCommand:
    """Sparse autoencoders of a model's stream, and a crosscoder of two models' streams.

    Example: lab sae train --store runs/acts --architectures topk:16 --sizes 512 --out runs/saes
    """

    do: Annotated[
        Annotated[SaeTrainCommand, tyro.conf.subcommand("train")]
        | Annotated[SaeCompareCommand, tyro.conf.subcommand("compare")],
        tyro.conf.arg(name=""),
    ]


FeatureCommand = SaeCommand | FeaturesCommand | AttributeCommand | TaxonomyCommand
