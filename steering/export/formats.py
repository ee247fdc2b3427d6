"""Formats: what a vector can be exported as, as values."""

from dataclasses import dataclass
from typing import TypeAlias

from lab.models.load import Model


@dataclass(frozen=True, slots=True)
class Safetensors:
    """This project's own file, which loses nothing."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """A control vector for llama.cpp, repeng and EasySteer."""


@dataclass(frozen=True, slots=True)
class VllmLens:
    """JSON for requests to a vLLM that runs vllm-lens."""


@dataclass(frozen=True, slots=True)
class LayerTable:
    """One tensor, a row a block; for programs whose own files are pickles (hotwire, steering-vectors)."""


@dataclass(frozen=True, slots=True, eq=False)
class BakedBias:
    """A checkpoint of a model with the vector in its biases, for plain transformers and vLLM."""

    into: Model


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A PEFT adapter that is only a bias, for a model."""

    of: Model


Format: TypeAlias = Safetensors | Gguf | VllmLens | LayerTable | BakedBias | Adapter
