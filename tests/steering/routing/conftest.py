"""Hand-written traces of a tiny model, with disagreements planted behind every question mark."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl
import pytest

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.tasks.problem import Problem


class Written(NamedTuple):
    """Completions of some problems."""

    problems: Mapping[str, Problem]
    traces: pl.DataFrame
    disagreements: pl.DataFrame


def problem(prompt: str) -> Problem:
    return Problem(id=f"p:{prompt}", prompt=prompt, answer="", family="", source="test")


def trace_frame(completions: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """What routing reads of a `TRACES` table."""
    return pl.DataFrame(
        [
            {"problem_id": problem(prompt).id, "sample_index": index, "tokens": list(text.encode())}
            for prompt, texts in completions.items()
            for index, text in enumerate(texts)
        ],
        schema={"problem_id": pl.String, "sample_index": pl.Int32, "tokens": pl.List(pl.Int32)},
        orient="row",
    )


def decision_frame(rows: Sequence[tuple[str, int, int, int]]) -> pl.DataFrame:
    """What routing reads of a `DISAGREEMENTS` table, from (prompt, sample, position, tuned token)."""
    return pl.DataFrame(
        [(problem(prompt).id, sample, position, token) for prompt, sample, position, token in rows],
        schema={"problem_id": pl.String, "sample_index": pl.Int32, "position": pl.Int32, "tuned_token": pl.Int32},
        orient="row",
    )


def planted(completions: Mapping[str, Sequence[str]]) -> Written:
    """The tuned model would write "!" behind every question mark."""
    found = [
        (prompt, sample, position, ord("!"))
        for prompt, texts in completions.items()
        for sample, text in enumerate(texts)
        for position in range(len(text))
        if (prompt[-1] + text)[position] == "?"
    ]
    problems = {problem(prompt).id: problem(prompt) for prompt in completions}
    return Written(problems, trace_frame(completions), decision_frame(found))


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model("llama", seed=5)


@pytest.fixture(scope="session")
def written() -> Written:
    """Forty problems with two completions each, of several lengths."""
    return planted(
        {f"{n}{'?' if n % 3 else '='}": (f"a{n % 7}?b.", f"{n % 5}.c{'d' * (n % 4)}?{n}.") for n in range(10, 50)}
    )
