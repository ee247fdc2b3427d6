"""label_probes: how well labels can be read off the stream, and off a few features; the door to scikit-learn."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from lab.metrics.bootstrap import Interval, percentile_interval, resamples
from lab.records.errors import StorageError
from lab.records.seeds import numpy_generator
from probes.sae.dictionary import Sae
from probes.scores.labels import encoded, label_names, label_rows, read_site
from probes.scores.sums import Sums
from probes.storage.store import Store, read_index
from probes.tables import LABEL_ACTIVATIONS, LABEL_PROBES


def auroc_interval(
    scores: Float[np.ndarray, " token"],
    labelled: Bool[np.ndarray, " token"],
    problems: Int[np.ndarray, " token"],
    weights: Int[np.ndarray, "boot problem"],
) -> Interval:
    """P(score of a labelled token > score of another) + P(equal) / 2, and its 95 % interval.

    `problems` numbers the problem of each token; `weights` say how often a resample draws each. A token counts as often
    as its problem is drawn, so a resample's value is w C w / (w n+)(w n-) with C the pairs won between two problems:
    exact, and no sorting in a resample. NaN where there is no labelled token or no other.
    """
    n_problems = weights.shape[1]
    n_labelled = np.bincount(problems[labelled], minlength=n_problems).astype(np.float64)
    n_others = np.bincount(problems[~labelled], minlength=n_problems).astype(np.float64)
    if not n_labelled.sum() or not n_others.sum():
        return Interval(value=np.nan, low=np.nan, high=np.nan, stderr=np.nan)
    won = _pairs_won(scores, labelled, problems, n_problems)
    drawn = weights.astype(np.float64)
    pairs = (drawn @ n_labelled) * (drawn @ n_others)
    wins = ((drawn @ won) * drawn).sum(axis=1)
    replicates = np.divide(wins, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    value = float(won.sum() / (n_labelled.sum() * n_others.sum()))
    return percentile_interval(value, replicates, n_problems, bounds=(0.0, 1.0))


def best_threshold(scores: Float[np.ndarray, " token"], labelled: Bool[np.ndarray, " token"]) -> float:
    """The score from which calling tokens labelled gives the largest F1; the highest one of equals."""
    levels = np.unique(-scores)
    order = np.argsort(-scores, kind="stable")
    n_right = np.cumsum(labelled[order])
    # At the last token of each level all of its equals are called too.
    last = np.searchsorted(-scores[order], levels, side="right") - 1
    return float(-levels[np.argmax(2 * n_right[last] / (last + 1 + labelled.sum()))])


def f1(called: Bool[np.ndarray, " token"], labelled: Bool[np.ndarray, " token"]) -> float:
    """Harmonic mean of precision and recall; NaN where no token is labelled."""
    return float(2 * (called & labelled).sum() / (called.sum() + labelled.sum())) if labelled.any() else np.nan


def _pairs_won(
    scores: Float[np.ndarray, " token"],
    labelled: Bool[np.ndarray, " token"],
    problems: Int[np.ndarray, " token"],
    n_problems: int,
) -> Float[np.ndarray, "problem problem"]:
    """How many labelled tokens of the first problem beat other tokens of the second; an equal pair counts a half."""
    own, own_problem = scores[labelled], problems[labelled]
    won = np.zeros((n_problems, n_problems))
    for problem in range(n_problems):
        others = np.sort(scores[~labelled & (problems == problem)])
        beaten = (np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")) / 2
        won[:, problem] = np.bincount(own_problem, weights=beaten, minlength=n_problems)
    return won


MAX_TOKENS = 20_000
"""Tokens that probes are fitted and judged on, drawn from all that are stored."""
N_FEATURES = (1, 4, 16)
"""Sizes of the sparse probes."""
MAX_ITER = 10_000
"""Far more steps than a standardised and penalised regression needs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tokens:
    """Tokens with what a probe reads and what it should say."""

    stream: Float[Tensor, "token d_model"]
    marked: Bool[np.ndarray, "token label"]
    texts: Int[np.ndarray, " token"]
    problems: Int[np.ndarray, " token"]
    """Numbered from 0 without a gap."""

    def of(self, chosen: Bool[np.ndarray, " token"]) -> "_Tokens":
        """Some of them, their problems numbered anew."""
        return _Tokens(
            stream=self.stream[torch.from_numpy(chosen)],
            marked=self.marked[chosen],
            texts=self.texts[chosen],
            problems=np.unique(self.problems[chosen], return_inverse=True)[1],
        )


def label_probes(
    store: Store, sae: Sae, labels: pl.DataFrame, *, seed: int, n_boot: int = 2000, max_tokens: int = MAX_TOKENS
) -> pl.DataFrame:
    """`LABEL_PROBES` rows: for every label a linear probe, sparse probes of 1, 4 and 16 features, and a control.

    All are logistic regressions with an L2 penalty (C = 1) on standardised inputs, fitted on the tokens of half of the
    problems and judged on those of the other half. The features of a sparse probe are those with the largest absolute
    difference between their means over labelled and other training tokens (as Gurnee et al. 2023, arXiv:2305.01610,
    rank neurons). The control is the linear probe where labels were shuffled among the tokens of each text, in both
    halves: what it scores above 0.5 is told by the text and not by the token. Its threshold of F1, like any other, is
    the best on training tokens.

    At most `max_tokens` tokens are read, drawn at random; rare labels may need more. NaN where the tokens of a half all
    have the label or all lack it. Raises StorageError where fewer than two problems have a token, and as `label_names`
    and `shard_features` do.
    """
    names = label_names(store, labels)
    tokens = _drawn(store, sae, labels, names, max_tokens, seed)
    n_problems = int(tokens.problems.max()) + 1
    if n_problems < 2:
        raise StorageError(
            f"{store.path} has tokens of {n_problems} problem: want two or more, to fit on some and judge on others"
        )
    held_out = numpy_generator(seed, "held-out problems").permutation(n_problems)[: n_problems // 2]
    judged = np.isin(tokens.problems, held_out)
    training, testing = tokens.of(~judged), tokens.of(judged)
    weights = resamples(len(held_out), n_boot, numpy_generator(seed, "resamples"))
    ranked = _by_mean_difference(sae, training)[:, : max(N_FEATURES)]
    columns, places = ranked.unique(return_inverse=True)
    features = [_features(sae, part.stream, columns) for part in (training, testing)]
    streams = [part.stream.double().numpy() for part in (training, testing)]
    shuffled = [_shuffled(part, seed) for part in (training, testing)]
    rows: list[dict[str, object]] = []
    for number, label in enumerate(names):
        kinds = training.marked[:, number], testing.marked[:, number]
        trials = [("linear", sae.d_model, [], streams, kinds)]
        for n_features in sorted({min(n_wanted, sae.d_sae) for n_wanted in N_FEATURES}):
            chosen = places[number, :n_features].numpy()
            names_of = ranked[number, :n_features].tolist()
            trials.append(("sparse", n_features, names_of, [part[:, chosen] for part in features], kinds))
        trials.append(("shuffled", sae.d_model, [], streams, (shuffled[0][:, number], shuffled[1][:, number])))
        for probe, n_features, chosen, (fitted, unseen), (known, wanted) in trials:
            rows.append(
                {"label": label, "probe": probe, "n_features": n_features, "features": chosen}
                | _judged(fitted, known, unseen, wanted, testing.problems, weights)
            )
    return LABEL_PROBES.frame(rows)


def _judged(
    fitted: Float[np.ndarray, "train input"],
    known: Bool[np.ndarray, " train"],
    unseen: Float[np.ndarray, "test input"],
    wanted: Bool[np.ndarray, " test"],
    problems: Int[np.ndarray, " test"],
    weights: Int[np.ndarray, "boot problem"],
) -> dict[str, object]:
    """A probe fitted on `fitted` and judged on `unseen`: the columns of its row from `auroc` on."""
    counted: dict[str, object] = {"n_tokens": len(wanted), "n_labelled": int(wanted.sum())}
    if known.all() or not known.any():
        return dict.fromkeys(("auroc", "low", "high", "f1"), np.nan) | counted
    # Here, since it is slow to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITER)).fit(fitted, known)
    scores = probe.decision_function(unseen)
    interval = auroc_interval(scores, wanted, problems, weights)
    called = scores >= best_threshold(probe.decision_function(fitted), known)
    return {"auroc": interval.value, "low": interval.low, "high": interval.high, "f1": f1(called, wanted)} | counted


def _drawn(store: Store, sae: Sae, labels: pl.DataFrame, names: tuple[str, ...], max_tokens: int, seed: int) -> _Tokens:
    drawn = np.sort(numpy_generator(seed, "tokens").permutation(store.n_rows)[:max_tokens])
    streams, marked, names_of, first = [], [], [], 0
    for number, portion in enumerate(store.portions):
        here = drawn[(drawn >= first) & (drawn < first + portion.n_rows)] - first
        first += portion.n_rows
        streams.append(read_site(store, sae, number)[torch.from_numpy(here)].float())
        marked.append(label_rows(store, labels, names, number)[here])
        names_of.append(read_index(store, number)[here].select("text", "problem_id"))
    index = pl.concat(names_of)
    return _Tokens(
        stream=torch.cat(streams),
        marked=np.concatenate(marked),
        texts=index["text"].to_numpy(),
        problems=np.unique(index["problem_id"].to_numpy(), return_inverse=True)[1],
    )


def _by_mean_difference(sae: Sae, tokens: _Tokens) -> Int[Tensor, "label d_sae"]:
    """For each label all features, the one whose means differ most first, equals in their order."""
    marked = torch.from_numpy(tokens.marked).double()
    sums = torch.zeros(2, marked.shape[1], sae.d_sae, dtype=torch.float64)
    for rows, features in encoded(sae, tokens.stream):
        exact = features.double().cpu()
        sums[0] += marked[rows].T @ exact
        sums[1] += (1 - marked[rows]).T @ exact
    n_labelled = marked.sum(dim=0)[:, None]
    # A label without tokens has no probe; its means must only not be NaN, for sorting.
    gaps = sums[0] / n_labelled.clamp(min=1) - sums[1] / (len(marked) - n_labelled).clamp(min=1)
    return gaps.abs().sort(dim=1, descending=True, stable=True).indices


def _features(
    sae: Sae, stream: Float[Tensor, "token d_model"], columns: Int[Tensor, " some"]
) -> Float[np.ndarray, "token some"]:
    return torch.cat([features.cpu()[:, columns] for _, features in encoded(sae, stream)]).double().numpy()


def _shuffled(tokens: _Tokens, seed: int) -> Bool[np.ndarray, "token label"]:
    """The labels, shuffled among the tokens of each text; those of one token stay together."""
    generator = numpy_generator(seed, "shuffled labels")
    order = np.lexsort((generator.random(len(tokens.texts)), tokens.texts))
    # Texts stand side by side, so a stable sort by text leaves every token where it is.
    return tokens.marked[order]


class Auroc(NamedTuple):
    """Areas under the ROC curve, and how far the exact ones may lie from them."""

    value: Float64[np.ndarray, " d_sae"]
    error: Float64[np.ndarray, " d_sae"]


def label_activations(sums: Sums) -> pl.DataFrame:
    """`LABEL_ACTIVATIONS` rows, by label and feature; labels that no stored token has are left out."""
    n_features = len(sums.total)
    parts = []
    for number, (label, n_labelled) in enumerate(zip(sums.labels, sums.n_labelled.tolist(), strict=True)):
        if not n_labelled:
            continue
        with_label = sums.labelled_counts[number]
        area = auroc(with_label, n_labelled, sums.counts - with_label, sums.n_tokens - n_labelled)
        parts.append(
            pl.DataFrame(
                {
                    "feature": np.arange(n_features, dtype=np.int32),
                    "label": [label] * n_features,
                    "n_tokens": np.full(n_features, n_labelled, dtype=np.int64),
                    "mean": sums.labelled[number] / n_labelled,
                    "firing_share": with_label.sum(axis=1) / n_labelled,
                    "auroc": area.value,
                    "auroc_error": area.error,
                }
            )
        )
    return LABEL_ACTIVATIONS.checked(pl.concat(parts) if parts else LABEL_ACTIVATIONS.frame([]))


def auroc(
    positives: Int64[np.ndarray, "d_sae bin"],
    n_positive: int,
    negatives: Int64[np.ndarray, "d_sae bin"],
    n_negative: int,
) -> Auroc:
    """P(positive > negative) + P(equal) / 2 of the activations of all features, from histograms of those above 0.

    Two activations of one bin count as equal, so each such pair is wrong by at most a half: the exact value is within
    sum over bins of p_b q_b / 2, with p_b and q_b the shares of positives and negatives in bin b. Activations of 0 are
    equal indeed, so the bound is small where features are sparse. NaN where there are no positives or no negatives.
    """
    if not n_positive or not n_negative:
        return Auroc(*np.full((2, len(positives)), np.nan))
    p, q = positives / n_positive, negatives / n_negative
    q_at_zero = 1 - q.sum(axis=1, keepdims=True)
    q_below = q_at_zero + q.cumsum(axis=1) - q
    at_zero = (1 - p.sum(axis=1)) * q_at_zero[:, 0] / 2
    return Auroc(at_zero + (p * (q_below + q / 2)).sum(axis=1), (p * q).sum(axis=1) / 2)
