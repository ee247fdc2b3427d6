"""load: an SAE in SAELens' format, from a directory or one of its releases; a door to sae_lens, and slow to import."""

import hashlib
import json
import re
from pathlib import Path

import torch
from sae_lens import SAE
from safetensors import SafetensorError

from lab.records.errors import ModelError, SiteError
from lab.records.provenance import Provenance, canonical_json
from probes.capture.site import Site, Stream
from probes.sae.dictionary import Sae

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
OURS = "elicitation_lab"
"""What this project adds to an SAE's metadata: `provenance`, `model_digest` and `architecture`."""

# Kinds whose features are never negative and whose `decode` is `features @ W_dec + b_dec`.
LINEAR = ("standard", "gated", "jumprelu", "topk")
_STREAMS: dict[str, Stream] = {
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "in": "resid_pre",
    "out": "resid_post",
}
# The hub's errors are OSErrors.
_KNOWN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError, SafetensorError)


def load_sae(path: Path, *, device: torch.device) -> Sae:
    """The SAE in the directory `path`, frozen, in the dtype that its configuration names.

    A TopK SAE that weighs its features by the norms of their decoder rows is folded exactly, so that `decode` is
    `features @ W_dec + b_dec` for every kind. Raises ModelError, in one line, for what is missing, unreadable, pickled,
    or of a kind that is not so, and SiteError for an SAE of anything but a residual stream.
    """
    if not path.is_dir():
        raise ModelError(f"no directory at {path}; check the path of the SAE")
    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} is not an SAE in SAELens' format: it has no {CONFIG}")
    if not (path / WEIGHTS).is_file():
        if pickles := sorted(file.name for glob in ("*.pt", "*.pth", "*.bin") for file in path.glob(glob)):
            raise ModelError(f"{path} has only pickled weights ({pickles[0]}), which can run code; want {WEIGHTS}")
        raise ModelError(f"{path} has no weights: want {WEIGHTS}")
    try:
        return _frozen(SAE.load_from_disk(path, device=str(device)), str(path))
    except (ModelError, SiteError):
        raise
    except _KNOWN as error:
        raise _unreadable(f"cannot load the SAE in {path}", error) from error


def release_sae(release: str, sae_id: str, *, device: torch.device) -> Sae:
    """The SAE that SAELens' registry calls `sae_id` in `release` (or a Hugging Face repository), in float32.

    Downloads unless the hub's cache has it. The older releases are pickles, which SAELens reads with torch's
    restricted unpickler. Raises as `load_sae` does, and ModelError where the hub cannot be reached or has no such SAE.
    """
    try:
        return _frozen(SAE.from_pretrained(release, sae_id, device=str(device)), f"{release}/{sae_id}")
    except (ModelError, SiteError):
        raise
    except _KNOWN as error:
        raise _unreadable(f"cannot get SAE {sae_id!r} of release {release!r}", error) from error


def made_by(path: Path) -> Provenance | None:
    """Where the SAE in the directory `path` came from; None where its files do not say."""
    try:
        described = json.loads((path / CONFIG).read_bytes())
        return Provenance(**described["metadata"][OURS]["provenance"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    site = _site(coder.cfg.metadata.hook_name, name)
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
        architecture=ours.get("architecture") or coder.cfg.metadata.training_architecture or kind,
    )


def _site(hook_name: str | None, name: str) -> Site:
    if hook_name is None:
        raise SiteError(f"{name} does not say what it reads: want metadata.hook_name in its {CONFIG}")
    match = re.fullmatch(r"blocks\.([0-9]+)\.hook_(\w+)", hook_name)
    if match is None or match[2] not in _STREAMS:
        raise SiteError(
            f"{name} reads {hook_name!r}: want the residual stream, blocks.N.hook_resid_pre, "
            "blocks.N.hook_resid_mid or blocks.N.hook_resid_post (blocks.N.hook_in, blocks.N.hook_out)"
        )
    return Site(int(match[1]), _STREAMS[match[2]])


def _digest(coder: SAE, site: Site) -> str:
    """Of what decides its outputs: not of its metadata, nor of where it lies."""
    described = {key: value for key, value in coder.cfg.to_dict().items() if key not in ("metadata", "device")}
    total = hashlib.sha256(canonical_json({"site": str(site), **described}).encode())
    for name, tensor in sorted(coder.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy has no bfloat16.
        total.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _unreadable(action: str, error: Exception) -> ModelError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return ModelError(f"{action}: {type(error).__name__}: {reason}")
