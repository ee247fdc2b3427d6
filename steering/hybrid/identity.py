"""identity: a digest of all that decides what a hybrid of a given pair writes."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256

import torch
from torch import Tensor

from lab.provenance import digest
from probes.sae.dictionary import Sae
from steering.hybrid.hybrid import Hybrid
from steering.vector import SteeringVector


def identity(hybrid: Hybrid) -> str:
    """Sixteen hex digits; equal for hybrids of equal values, whatever object or device they are on."""
    return digest(_plain(hybrid))


def _plain(value: object) -> object:
    """`value` with tensors as digests of their bytes, in what has canonical JSON."""
    match value:
        case Tensor():
            content = value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), sha256(content).hexdigest()]
        case SteeringVector():
            # How a vector was found does not change what it does.
            return _plain(value.directions)
        case Sae(digest=own):
            return own
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple():
            return [_plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {"kind": type(value).__name__} | {
                field.name: _plain(getattr(value, field.name)) for field in fields(value)
            }
        case _:
            return value
