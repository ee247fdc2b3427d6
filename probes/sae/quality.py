"""quality: how well an SAE stands for its stream, on problems that it did not learn from."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from lab.metrics.bootstrap import Interval, percentile_interval, resamples
from lab.models.load import Model
from lab.records.errors import StorageError
from lab.records.seeds import numpy_generator
from lab.scoring.scores import Row, Texts, completion_logits, pieces
from probes.capture.site import Site, hook_site
from probes.sae.architecture import is_held_out
from probes.sae.dictionary import Reconstruction, Sae, require_fit, splice
from probes.storage.store import Store, read_texts, require_model, shuffled
from probes.tables import SAE_QUALITY

BATCH_SIZE, N_BOOT = 4096, 2000


@torch.inference_mode()
def quality(
    model: Model, sae: Sae, store: Store, *, held_out_share: float = 0.1, n_texts: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """One row of `SAE_QUALITY`: `sae` on the activations and texts of the store's held-out problems.

    Explained variance is 1 - sum |x - x_hat|^2 / sum |x - mean|^2 over activations. Cross-entropies are of the tokens
    of completions, summed over at most `n_texts` texts, drawn by `seed`, and divided by their number; the SAE, or the
    mean activation, stands in the stream's place at every position, also at those that the store leaves out.
    (ce_ablated - ce_spliced) / (ce_ablated - ce_clean) is recovered, with an interval over problems.

    `model` must be the one that the store was made from. Raises StorageError where it is not, or no problem is held
    out, ModelError for an SAE of another width and SiteError for a site that the store or the model does not have.
    """
    require_fit(sae, model)
    require_model(store, model)
    mean, read = _activations(sae, store, held_out_share)
    texts = _texts(store, held_out_share, n_texts, seed)
    if not read["n_rows"] or not len(texts):
        raise StorageError(
            f"{store.path} has {read['n_rows']} activations and {len(texts)} texts of held-out problems: want some of "
            f"both; capture more problems, or hold out more than {held_out_share:g} of them"
        )
    losses = _losses(model, sae, mean, texts)
    clean, spliced, ablated, divergence = losses.sum(axis=0) / int(texts["completion"].list.len().sum())
    recovered = recovered_interval(losses[:, :3], texts["problem_id"], seed=seed)
    return SAE_QUALITY.frame(
        [
            {
                "sae": sae.name,
                "site": str(sae.site),
                "architecture": sae.architecture,
                "d_sae": sae.d_sae,
                **read,
                "n_texts": len(texts),
                "ce_clean": float(clean),
                "ce_spliced": float(spliced),
                "ce_ablated": float(ablated),
                "ce_recovered": recovered.value,
                "ce_recovered_low": recovered.low,
                "ce_recovered_high": recovered.high,
                "kl": float(divergence),
            }
        ]
    )


def recovered_interval(sums: Float[np.ndarray, "text 3"], problem_ids: pl.Series, *, seed: int) -> Interval:
    """Cross-entropy recovered, from every text's summed (clean, spliced, ablated) cross-entropy; NaN where undefined.

    A ratio of sums over problems, so the number of tokens cancels.
    """
    problems, of_text = np.unique(problem_ids.to_numpy(), return_inverse=True)
    totals = np.zeros((len(problems), 3))
    np.add.at(totals, of_text, sums)
    weights = resamples(len(problems), N_BOOT, numpy_generator(seed, "sae quality"))
    value = float(_recovered(totals.sum(axis=0, keepdims=True))[0])
    return percentile_interval(value, _recovered(weights @ totals), len(problems))


def _recovered(sums: Float[np.ndarray, "draw 3"]) -> Float[np.ndarray, " draw"]:
    clean, spliced, ablated = sums.T
    lost = ablated - clean
    return np.divide(ablated - spliced, lost, out=np.full(len(lost), np.nan), where=lost != 0)


def _activations(sae: Sae, store: Store, share: float) -> tuple[Float[Tensor, " d_model"], dict[str, float | int]]:
    """The mean of the held-out activations, and columns of what one pass over them tells; sums in double precision."""
    n_rows, n_active, squares, errors = 0, 0, 0.0, 0.0
    total = torch.zeros(sae.d_model, dtype=torch.float64)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    # Their order does not matter.
    for batch in shuffled(store, sae.site, BATCH_SIZE, seed=0, keep=lambda problem: is_held_out(problem, share)):
        stream = batch.to(sae.W_dec.device)
        features = sae.encode(stream)
        exact = stream.double()
        n_rows += len(batch)
        n_active += int((features > 0).sum())
        fired |= (features > 0).any(dim=0).cpu()
        total += exact.sum(dim=0).cpu()
        squares += float(exact.square().sum())
        errors += float((exact - sae.decode(features)).square().sum())
    mean = total / max(n_rows, 1)
    spread = squares - n_rows * float(mean.square().sum())
    return mean, {
        "n_rows": n_rows,
        "explained_variance": 1 - errors / spread if spread > 0 else float("nan"),
        "l0": n_active / max(n_rows, 1),
        "dead_share": 1 - float(fired.double().mean()),
    }


def _texts(store: Store, share: float, n_texts: int, seed: int) -> pl.DataFrame:
    """Held-out `TEXTS` rows with a completion, as they stand in the store."""
    texts = read_texts(store).filter(pl.col("completion").list.len() > 0)
    mine = texts.filter(pl.Series([is_held_out(problem, share) for problem in texts["problem_id"]], dtype=pl.Boolean))
    chosen = numpy_generator(seed, "sae texts").permutation(len(mine))[:n_texts]
    return mine[np.sort(chosen)]


def _losses(
    model: Model, sae: Sae, mean: Float[Tensor, " d_model"], texts: pl.DataFrame
) -> Float[np.ndarray, "text 4"]:
    """Of every text, summed over its completion: clean, spliced and ablated cross-entropy, KL(clean || spliced)."""
    rows = [Row(prompt, completion) for prompt, completion in texts.select("prompt", "completion").iter_rows()]
    sums = np.zeros((len(rows), 4))
    for chosen, read in pieces(model, rows):
        clean = _log_probabilities(model, read)
        with splice(model, sae, Reconstruction()):
            spliced = _log_probabilities(model, read)
        with _replaced(model, sae.site, mean):
            ablated = _log_probabilities(model, read)
        divergence = (clean.exp() * (clean - spliced)).sum(dim=-1)
        for place, index in enumerate(chosen):
            tokens = torch.tensor(rows[index].completion, device=model.device)
            n = len(tokens)
            for column, logs in enumerate((clean, spliced, ablated)):
                sums[index, column] = -float(logs[place, -n:].gather(-1, tokens[:, None]).double().sum())
            sums[index, 3] = float(divergence[place, -n:].double().sum())
    return sums


def _log_probabilities(model: Model, read: Texts) -> Float[Tensor, "text kept d_vocab"]:
    return completion_logits(model, read).float().log_softmax(dim=-1)


@contextmanager
def _replaced(model: Model, site: Site, mean: Float[Tensor, " d_model"]) -> Iterator[None]:
    """The same activation at every position."""

    def change(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return mean.to(stream.device, stream.dtype).expand_as(stream)

    handle = hook_site(model, site, change)
    try:
        yield
    finally:
        handle.remove()
