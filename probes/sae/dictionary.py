"""Sae: a sparse autoencoder of one site, whoever trained it, and how well it stands for its stream."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from sae_lens import SAE
from safetensors import safe_open
from torch import Tensor, nn

from lab.metrics.bootstrap import Interval, percentile_interval, resamples
from lab.models.load import Model
from lab.records.errors import ModelError, SiteError, StorageError, condensed
from lab.records.provenance import Provenance, canonical_json, read_json
from lab.records.seeds import numpy_generator
from lab.records.stage import require_as_written
from lab.scoring.scores import Row, by_text, foresee, pieces
from probes.capture.site import Site, check_site, hook_site
from probes.sae.architecture import CONFIG, OURS, centre, is_held_out, require_meant, require_told, site_of
from probes.storage.store import Store, read_texts, require_model, shuffled
from probes.tables import SAE_QUALITY


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sae:
    """Reads a stream as features, and writes features as a stream; the features' decoder rows are directions."""

    name: str
    """As a user would name it: its directory."""
    site: Site
    coder: nn.Module
    """An inference SAE of SAELens, frozen: `encode`, and a `decode` that is `features @ W_dec + b_dec`."""
    trained_on: str | None
    """Digest of the model whose activations it learned; None where its files do not say."""
    digest: str
    """Sixteen hex digits of SHA-256 over its weights and configuration."""
    architecture: str = "unknown"
    """What was trained, as a user writes it, such as `topk:16`, or the kind that its files name."""
    is_centred: bool = False
    """Whether it takes the mean off a stream, as it learnt them: only under LayerNorm does that change nothing."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_model"]:  # noqa: N802 -- as the field calls it
        """A direction for every feature."""
        weight = self.coder.W_dec
        assert isinstance(weight, Tensor)
        return weight

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    @property
    def d_model(self) -> int:
        return self.W_dec.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    def encode(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_sae"]:
        """Activation of every feature, never negative, in the SAE's own dtype; gradients pass."""
        return self.coder.encode(stream.to(self.dtype))  # pyright: ignore[reportCallIssue]

    def decode(self, features: Float[Tensor, "*place d_sae"]) -> Float[Tensor, "*place d_model"]:
        """The stream that these features stand for, in the SAE's own dtype; gradients pass."""
        return self.coder.decode(features)  # pyright: ignore[reportCallIssue]


def require_fit(sae: Sae, model: Model) -> None:
    """ModelError unless `sae` is as wide as the model's stream, and SiteError unless the model has its layer.

    That it learned from another model is no error: a base model's SAE may read the model tuned from it.
    """
    if sae.d_model != model.anatomy.d_model:
        raise ModelError(
            f"SAE {sae.name} reads streams of width {sae.d_model}, and {model.name} has d_model "
            f"{model.anatomy.d_model}: want an SAE of this model, or of one it was tuned from"
        )
    if sae.is_centred and not any(isinstance(module, nn.LayerNorm) for module in model.network.modules()):
        raise ModelError(
            f"SAE {sae.name} learnt the streams of centred weights (center_writing_weights), which only a model with "
            f"LayerNorm has, and {model.name} has none: want an SAE of this model"
        )
    check_site(model, sae.site)


FeatureChange: TypeAlias = Callable[[Float[Tensor, "batch pos d_sae"]], Float[Tensor, "batch pos d_sae"]]
"""Features -> what they are to be; must not write into what it is given."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """In the stream's place stands what the SAE writes of it; the error of the SAE is lost."""


@contextmanager
def splice(model: Model, sae: Sae, change: FeatureChange | Reconstruction) -> Iterator[None]:
    """Within the block, every forward pass of `model` goes through `sae`; afterwards, also after an exception, none.

    With a function, the stream becomes stream + (change(f) - f) @ W_dec with f its features: the SAE's error is kept,
    so that unchanged features leave the logits as they are, to the bit. It acts at every position that is read, also at
    padding, so cached and uncached passes agree; in the wider of the SAE's dtype and the stream's, and the result is
    cast to the stream's. Gradients pass. No weight is touched.

    Raises ModelError for an SAE of another width, SiteError for a layer out of range or, on a clean exit, where the
    hook never fired although the model ran.
    """
    require_fit(sae, model)
    n_passes, n_fired = 0, 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        nonlocal n_fired
        n_fired += 1
        features = sae.encode(stream)
        if isinstance(change, Reconstruction):
            return sae.decode(features).to(stream.dtype)
        return (stream + (change(features) - features) @ sae.W_dec).to(stream.dtype)

    with ExitStack() as hooks:
        hooks.callback(model.network.register_forward_hook(count).remove)
        hooks.callback(hook_site(model, sae.site, edit).remove)
        yield
    if n_passes and not n_fired:
        raise SiteError(f"{sae.name} at {sae.site} never acted in {n_passes} passes of {model.name}")


WEIGHTS = "sae_weights.safetensors"

# Kinds whose features are never negative and whose `decode` is `features @ W_dec + b_dec`.
LINEAR = ("standard", "gated", "jumprelu", "topk")


def load_sae(path: Path, *, device: torch.device) -> Sae:
    """The SAE in the directory `path`, frozen, in the dtype that its configuration names.

    A TopK SAE that weighs its features by the norms of their decoder rows is folded exactly, so that `decode` is
    `features @ W_dec + b_dec` for every kind; one that learnt the streams of centred weights (`center_writing_weights`
    of TransformerLens) takes the mean off a stream itself. Raises ModelError, in one line, for what is missing,
    unreadable, pickled, not as it was written, not what its files say, or of a kind that is not so, and SiteError for
    an SAE of anything but a residual stream.
    """
    if not path.is_dir():
        raise ModelError(f"no directory at {path}; check the path of the SAE")
    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} is not an SAE in SAELens' format: it has no {CONFIG}")
    if not (path / WEIGHTS).is_file():
        if pickles := sorted(file.name for glob in ("*.pt", "*.pth", "*.bin") for file in path.glob(glob)):
            raise ModelError(f"{path} has only pickled weights ({pickles[0]}), which can run code; want {WEIGHTS}")
        raise ModelError(f"{path} has no weights: want {WEIGHTS}")
    with _told_in_a_line(f"cannot load the SAE in {path}"):
        require_as_written(path)
        require_told(read_json(path / CONFIG, "save it again"))
        with safe_open(path / WEIGHTS, framework="pt") as file:
            dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if odd := dtypes - {"F64", "F32", "F16", "BF16"}:
            raise ModelError(f"its weights are {', '.join(sorted(odd))}, want floating point: save it again")
        return _frozen(SAE.load_from_disk(path, device=str(device)), str(path))


def release_sae(release: str, sae_id: str, *, device: torch.device) -> Sae:
    """The SAE that SAELens' registry calls `sae_id` in `release` (or a Hugging Face repository), in float32.

    Downloads unless the hub's cache has it. The older releases are pickles, which SAELens reads with torch's
    restricted unpickler. Raises as `load_sae` does, and ModelError where the hub cannot be reached or has no such SAE.
    """
    with _told_in_a_line(f"cannot get SAE {sae_id!r} of release {release!r}"):
        return _frozen(SAE.from_pretrained(release, sae_id, device=str(device)), f"{release}/{sae_id}")


def made_by(path: Path) -> Provenance | None:
    """Where the SAE in the directory `path` came from; None where its files do not say."""
    try:
        described = json.loads((path / CONFIG).read_bytes())
        return Provenance(**described["metadata"][OURS]["provenance"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _require_sound(coder: SAE, name: str) -> str:
    """What kind of SAE `coder` is, as a user writes it; ModelError where its parts do not fit each other."""
    kind, metadata = coder.cfg.architecture(), coder.cfg.metadata
    for tensor_name, tensor in coder.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{name} has {tensor_name} with NaN or infinity: it is damaged, put it back from a copy")
    k = getattr(coder.cfg, "k", None)
    if k is not None and not (type(k) is int and 1 <= k <= coder.cfg.d_sae):
        raise ModelError(f"{name} has k {k!r}: want a whole number from 1 to its {coder.cfg.d_sae} features")
    label = metadata.get(OURS, {}).get("architecture")
    if label is not None:
        require_meant(str(label), kind, k, name)
    return label or metadata.training_architecture or kind


def _frozen(coder: SAE, name: str) -> Sae:
    """`coder` as a value of this project, folded, or the reason why it cannot be one."""
    kind = coder.cfg.architecture()
    if kind not in LINEAR:
        raise ModelError(
            f"{name} is of kind {kind!r}: want one of {', '.join(LINEAR)}, whose features are never negative and "
            "decode as features @ W_dec + b_dec"
        )
    if coder.cfg.reshape_activations != "none":
        raise SiteError(f"{name} reads activations reshaped by {coder.cfg.reshape_activations}: want a residual stream")
    if coder.cfg.normalize_activations != "none":
        raise ModelError(
            f"{name} reads activations normalised by {coder.cfg.normalize_activations}, which is not in its weights: "
            "want an SAE with normalize_activations none (fold the factor and save it again)"
        )
    site, architecture = site_of(coder.cfg.metadata.hook_name, name), _require_sound(coder, name)
    is_centred = bool((coder.cfg.metadata.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"))
    if is_centred:
        centre(coder.state_dict(), coder.cfg.apply_b_dec_to_input, name)
    if getattr(coder.cfg, "rescale_acts_by_decoder_norm", False):
        coder.fold_W_dec_norm()
        coder.cfg.rescale_acts_by_decoder_norm = False
    coder.eval().requires_grad_(False)
    ours = coder.cfg.metadata.get(OURS, {})
    return Sae(
        name=name,
        site=site,
        coder=coder,
        trained_on=ours.get("model_digest"),
        digest=_digest(coder, site),
        architecture=architecture,
        is_centred=is_centred,
    )


def _digest(coder: SAE, site: Site) -> str:
    """Of what decides its outputs: not of its metadata, nor of where it lies."""
    described = {key: value for key, value in coder.cfg.to_dict().items() if key not in ("metadata", "device")}
    total = hashlib.sha256(canonical_json({"site": str(site), **described}).encode())
    for name, tensor in sorted(coder.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy has no bfloat16.
        total.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


@contextmanager
def _told_in_a_line(action: str) -> Iterator[None]:
    """Makes a ModelError of what goes wrong within, unless it is told in this project's words already."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*This SAE has non-empty model_from_pretrained_kwargs")
            yield
    except (ModelError, SiteError) as error:
        if str(error).startswith("its "):
            raise ModelError(f"{action}: {error}") from error
        raise
    except Exception as error:
        raise ModelError(f"{action}: {condensed(error)}") from error


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

    def mean_everywhere(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return mean.to(stream.device, stream.dtype).expand_as(stream)

    def compared(*of_passes: Tensor) -> tuple[Tensor, Tensor]:
        *logits, written = of_passes
        clean, spliced, ablated = (one.log_softmax(dim=-1) for one in logits)
        losses = [-one.gather(-1, written[:, None]).double() for one in (clean, spliced, ablated)]
        return torch.cat(losses, dim=-1), (clean.exp() * (clean - spliced)).sum(dim=-1)

    for chosen, read in pieces(model, rows):
        clean = foresee(model, read)
        with splice(model, sae, Reconstruction()):
            spliced = foresee(model, read)
        with ExitStack() as hooks:
            hooks.callback(hook_site(model, sae.site, mean_everywhere).remove)
            ablated = foresee(model, read)
        for index, (losses, divergence) in zip(chosen, by_text(compared, clean, spliced, ablated), strict=True):
            sums[index, :3] = losses.T.contiguous().sum(dim=-1).cpu().numpy()
            sums[index, 3] = float(divergence.double().sum())
    return sums
