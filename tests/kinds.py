"""Kinds of which one runs always, and the others with the slow tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_always(kinds: Iterable[Any]) -> list[Any]:
    """The first of some values of a parameter as it is, the others marked slow."""
    first, *others = kinds
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]
