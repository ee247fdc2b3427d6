"""Features: activations of texts, the SAEs that read them, and which features push towards a token."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from jaxtyping import Bool, Float
from torch import Tensor

from elicitation.front.opening import Prompts, problems_of, prompted, site_of
from elicitation.study.interventions import TopFeatures, frequency_matched
from elicitation.study.interventions import top_features as carriers
from elicitation.widgets.live import ReadText, TokenStrip
from lab.metrics.bootstrap import resamples
from lab.models.device import resolve_device
from lab.models.load import Model
from lab.records.provenance import provenance
from lab.records.seeds import numpy_generator
from lab.records.tables import read_table
from lab.sampling.decoder import left_padded
from lab.tasks.problem import problem_table
from lab.tasks.source import Task
from probes.attribution import effects as attribution
from probes.attribution.contrast import first_token_contrasts
from probes.attribution.effects import Ablation, Gradient, Integrated, JointAblation, Method, feature_effects
from probes.capture import capture as capturing
from probes.capture.site import TEXTS, CompletionTokens, Positions, Site, texts
from probes.sae.architecture import Training, parse_architecture
from probes.sae.dictionary import Sae
from probes.scores import label_probes as label_activations
from probes.scores.labels import step_labels, word_labels
from probes.scores.sums import sums
from probes.storage.fill import fill
from probes.storage.store import TEXTS_FILE, Store, plan

METHODS: Mapping[str, Method] = {
    "ablation": Ablation(),
    "joint ablation": JointAblation(),
    "gradient": Gradient(),
    "integrated": Integrated(16),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Activations:
    """Streams of some texts, padded on the left, so that `found["blocks.2.hook_resid_post"][:, -1]` is at the end."""

    tokens: tuple[tuple[str, ...], ...]
    """Every text, token by token, without its padding."""
    mask: Bool[Tensor, "text pos"]
    streams: Mapping[Site, Float[Tensor, "text pos d_model"]]

    def __getitem__(self, site: Site | str) -> Float[Tensor, "text pos d_model"]:
        return self.streams[site_of(site)]


def capture(model: Model, prompts: Prompts | pl.DataFrame, *sites: Site | str) -> Activations:
    """The residual stream at `sites` as the model reads prompts, or traces with what was written.

    Raises SiteError for a site that the model does not have.

    >>> el.capture(el.load("zero-base"), ["<1+2?", "<1+2-4?"], "blocks.2.hook_resid_post")[el.Site(2)].shape
    torch.Size([2, 7, 128])
    """
    ids = token_ids(model, prompts)
    read = left_padded(model, ids)
    streams = capturing.capture(model, read.tokens, read.mask, [site_of(site) for site in sites])
    return Activations(tokens=tuple(words(model, text) for text in ids), mask=read.mask, streams=streams)


def store(
    model: Model,
    traces: pl.DataFrame,
    *sites: Site | str,
    out: Path | str | None = None,
    positions: Positions = CompletionTokens(),  # noqa: B008 -- a frozen value
) -> Store:
    """Activations of traces on disk, in shards with checksums, to learn from; in a temporary directory without `out`.

    A store that is there already, whole or in part, is gone on with. Raises as `probes.storage.fill` does.

    >>> base = el.load("zero-base")
    >>> el.store(base, el.sample(base, el.task("chain", n=4)), "blocks.2.hook_resid_post").n_rows
    68
    """
    read = texts(model, traces, problem_table(prompted(traces).values()))
    planned = plan(model, read, tuple(site_of(site) for site in sites), positions)
    parents = {"model": model.digest, "texts": planned.texts}
    made_by = provenance("capture", planned, parents, device=model.device.type, dtype=planned.weights, seed=0)
    return fill(model, read, planned, directory(out), made_by)


def train_sae(
    store: Store,
    *,
    architecture: str = "topk:16",
    d_sae: int | None = None,
    n_tokens: int = 500_000,
    batch_size: int = 1024,
    device: str = "auto",
    seed: int = 0,
    out: Path | str | None = None,
) -> Sae:
    """A sparse autoencoder of the store's first site, by SAELens' trainer; four features a dimension without `d_sae`.

    `architecture` is `topk:K`, `batchtopk:K`, `matryoshka:K`, `jumprelu:L0` or `standard:L1`.

    >>> base = el.load("zero-base")
    >>> store = el.store(base, el.sample(base, el.task("chain", n=40), n=4), el.Site(2))
    >>> el.train_sae(store, d_sae=64, n_tokens=2048, batch_size=256).W_dec.shape
    torch.Size([64, 128])
    """
    # It brings sae_lens, which is slow to import.
    from probes.sae.train import grid, train_unit

    place = resolve_device(device)
    site, size = store.plan.sites[0], d_sae or 4 * store.plan.d_model
    training = Training(n_tokens=n_tokens, batch_size=batch_size, seed=seed)
    kind = parse_architecture(architecture)
    (unit,) = grid(store.path, [site], [kind], [size], training, directory(out), device=place)
    train_unit(unit)
    return load_sae(unit.path, device=str(place))


def load_sae(path: Path | str, sae_id: str | None = None, *, device: str = "auto") -> Sae:
    """The SAE in a directory of SAELens' format, or with `sae_id` that of a release of SAELens' registry.

    >>> el.load_sae("runs/none")
    Traceback (most recent call last):
    lab.records.errors.ModelError: no directory at runs/none; check the path of the SAE
    """
    from probes.sae import dictionary as load

    place = resolve_device(device)
    return (
        load.load_sae(Path(path), device=place) if sae_id is None else load.release_sae(str(path), sae_id, device=place)
    )


def label_tokens(model: Model, store: Store, task: Task) -> pl.DataFrame:
    """The kinds of token in the texts of a store, by the task's step grammar, or by words of reasoning without one.

    >>> el.label_tokens(base, store, task).columns
    ['text', 'position', 'label']
    """
    read = read_table(store.path / TEXTS_FILE, TEXTS)
    by_step = task.steps and step_labels(read, model.tokenizer, task.problems, task.steps)
    return word_labels(read, model.tokenizer) if by_step is None else by_step


def label_features(sae: Sae, store: Store, labels: pl.DataFrame) -> pl.DataFrame:
    """What every feature does at every kind of token: its mean there, and how well it alone finds them (`auroc`).

    >>> el.label_features(sae, store, el.label_tokens(base, store, task)).height > 64
    True
    """
    return label_activations.label_activations(sums(store, sae, labels))


def attribute(
    model: Model,
    sae: Sae,
    prompts: Prompts,
    *,
    toward: str | Sequence[str],
    against: str | Sequence[str],
    method: str | Method = "ablation",
    seed: int = 0,
) -> pl.DataFrame:
    """How much every active feature pushes the next token towards one side, in nats of log-odds, the largest first.

    Effects are summed over the tokens of a prompt and averaged over prompts, with intervals. `ablation` is exact,
    `gradient` its first order, `integrated` follows the path from no feature to all; `joint ablation` takes a feature
    out of all tokens at once. Raises SiteError for a string that is not one token.

    >>> el.attribute(base, sae, task, toward="T", against="A", method="gradient").columns
    ['feature', 'method', 'effect', 'low', 'high', 'n_texts']
    """
    chosen = METHODS[method] if isinstance(method, str) else method
    contrasts = contrasts_of(model, prompts, toward, against)
    weights = resamples(len(contrasts), 1000, numpy_generator(seed, "bootstrap"))
    found = attribution.attribute(model, sae, contrasts, chosen, batch=256)
    return feature_effects(found.effects, contrasts, chosen, weights).sort("effect", descending=True)


def top_features(
    model: Model,
    sae: Sae,
    prompts: Prompts,
    *,
    toward: str | Sequence[str],
    against: str | Sequence[str],
    n: int = 8,
    seed: int = 0,
) -> TopFeatures:
    """The at most `n` features that most push the next token towards one side, by exact ablation: `.top`, `.effects`.

    Only those whose interval lies above 0.

    >>> len(el.top_features(base, sae, task, toward="T", against="A", n=3).top)
    3
    """
    return carriers(model, sae, contrasts_of(model, prompts, toward, against), n_top=n, n_boot=1000, seed=seed)


def matched_features(found: TopFeatures, n_draws: int = 1, *, seed: int = 0) -> list[list[int]]:
    """Controls of `top_features`: other features, as often active at the last token of a prompt, drawn at random.

    >>> found = el.top_features(base, sae, task, toward="T", against="A", n=3)
    >>> [len(draw) for draw in el.matched_features(found, n_draws=2)]
    [3, 3]
    """
    return frequency_matched(found.top, found.first_token_share, n_draws, numpy_generator(seed, "matched")).tolist()


def token_strip(
    model: Model, sae: Sae, prompts: Prompts | pl.DataFrame, features: Sequence[int] | Mapping[int, str]
) -> TokenStrip:
    """Texts, token by token, shaded by the feature that the reader of the notebook chooses; features may have names.

    >>> el.token_strip(base, sae, "<1+2?", {3: "sums", 5: "ends"}).features
    ('sums', 'ends')
    """
    names = dict(features) if isinstance(features, Mapping) else {feature: f"feature {feature}" for feature in features}
    read = capture(model, prompts, sae.site)
    shown = []
    for tokens, stream in zip(read.tokens, read[sae.site], strict=True):
        active = sae.encode(stream[-len(tokens) :])
        values = {name: tuple(active[:, feature].tolist()) for feature, name in names.items()}
        shown.append(ReadText(name="".join(tokens), tokens=tokens, activations=values))
    return TokenStrip(texts=tuple(shown))


def token_ids(model: Model, prompts: Prompts | pl.DataFrame) -> list[list[int]]:
    """Prompts as the model reads them; of traces, with what was written behind them."""
    if not isinstance(prompts, pl.DataFrame):
        return [model.prompt_ids(problem.prompt) for problem in problems_of(prompts)]
    asked = {name: model.prompt_ids(problem.prompt) for name, problem in prompted(prompts).items()}
    return [asked[name] + tokens for name, tokens in prompts.select("problem_id", "tokens").iter_rows()]


def words(model: Model, tokens: Sequence[int]) -> tuple[str, ...]:
    """Every token as text."""
    return tuple(str(model.tokenizer.decode([token])) for token in tokens)


def contrasts_of(
    model: Model, prompts: Prompts, toward: str | Sequence[str], against: str | Sequence[str]
) -> pl.DataFrame:
    """One side's tokens against the other's behind every prompt."""
    sides = ([side] if isinstance(side, str) else side for side in (toward, against))
    return first_token_contrasts(model, problems_of(prompts), *sides)


def directory(out: Path | str | None) -> Path:
    """`out`, or a new temporary directory."""
    return Path(tempfile.mkdtemp(prefix="elicitation-lab-")) / "out" if out is None else Path(out)
