"""answer_contrasts: the gold answer against a wrong one, where a written completion states its answer."""

from collections.abc import Iterator, Sequence

import polars as pl

from lab.errors import EstimateError
from lab.models.load import Model
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from probes.attribution.contrast import CONTRASTS, require_contrasts


def answer_contrasts(model: Model, task: Task, traces: pl.DataFrame) -> pl.DataFrame:
    """`CONTRASTS` rows, one for each row of a `TRACES` table; the texts end just before the answer is stated.

    Toward is the first token of the gold answer; against, that of the answer which was written where it is wrong, and
    else that of the gold answer of the next problem, in the task's order, whose first token is another. Raises
    EstimateError for a trace of another task, or where `stated_at` cannot tell the place; leave such traces out.
    """
    places = {problem.id: place for place, problem in enumerate(task.problems)}
    rows: list[dict[str, object]] = []
    for problem_id, sample_index, tokens, text in traces.select(
        "problem_id", "sample_index", "tokens", "text"
    ).iter_rows():
        where = f"sample {sample_index} of {problem_id!r}"
        if problem_id not in places:
            raise EstimateError(f"{where} answers no problem of {task.name}: want the task that was sampled")
        problem = task.problems[places[problem_id]]
        others = [*task.problems[places[problem_id] + 1 :], *task.problems[: places[problem_id]]]
        try:
            row = _contrast(model, task, problem, others, tokens, text)
        except EstimateError as error:
            raise EstimateError(f"{where} {error}; leave this trace out") from error
        rows.append({"problem_id": problem_id} | row)
    table = CONTRASTS.frame(rows)
    require_contrasts(model, table)
    return table


def can_be_asked(model: Model, task: Task, trace: pl.DataFrame) -> bool:
    """Whether `answer_contrasts` can tell where this one row of a `TRACES` table states its answer."""
    try:
        answer_contrasts(model, task, trace)
    except EstimateError:
        return False
    return True


def stated_at(task: Task, text: str, wrong: str) -> int:
    """The character of `text` at which the answer that it states begins.

    It is the one place where writing `wrong` instead makes the task read `wrong`: a test of what the task itself takes
    for the answer, whatever its form. Raises EstimateError where the text states no answer, or where there is no such
    place, or several.
    """
    stated = task.read_answer(text)
    if stated is None:
        raise EstimateError("states no answer")
    found = [
        start
        for start in _occurrences(stated, text)
        if task.read_answer(text[:start] + wrong + text[start + len(stated) :]) == wrong
    ]
    if len(found) != 1:
        raise EstimateError(f"states its answer {stated!r} at {len(found)} places of its text: want one")
    return found[0]


def _contrast(
    model: Model, task: Task, problem: Problem, others: Sequence[Problem], tokens: Sequence[int], text: str
) -> dict[str, object]:
    """All of a row but the problem's id."""
    stated = task.read_answer(text)
    if stated is None:
        raise EstimateError("states no answer")
    is_right = task.same_answer(stated, problem.answer)
    for instead in [other.answer for other in others] if is_right else [problem.answer]:
        if instead == stated:
            continue
        start = stated_at(task, text, instead)
        n_before = _tokens_before(model, tokens, text, start)
        space = text[len(_decoded(model, tokens[:n_before])) : start]
        written, other = (_first_token(model, space + answer) for answer in (stated, instead))
        if written != tokens[n_before]:
            raise EstimateError(f"states its answer {stated!r} inside a token: want one that starts it")
        if other != written:
            context = [*model.tokenizer(problem.prompt).input_ids, *tokens[:n_before]]
            toward, against = (written, other) if is_right else (other, written)
            return {"tokens": context, "toward": [toward], "against": [against]}
    raise EstimateError(f"states {stated!r}, and no other answer at hand starts with another token")


def _tokens_before(model: Model, tokens: Sequence[int], text: str, start: int) -> int:
    """How many tokens end at `start`, or before the white space in front of it; EstimateError where one spans it."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(_decoded(model, tokens[:middle])) <= start else (low, middle - 1)
    before = _decoded(model, tokens[:low])
    if low == len(tokens) or not text.startswith(before) or text[len(before) : start].strip():
        raise EstimateError("states its answer inside a token: want one that starts it")
    return low


def _decoded(model: Model, tokens: Sequence[int]) -> str:
    text = model.tokenizer.decode(list(tokens), skip_special_tokens=True)
    assert isinstance(text, str), "one list of tokens decodes to one text"
    return text


def _first_token(model: Model, text: str) -> int:
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise EstimateError(f"would state {text!r}, which has no tokens")
    return ids[0]


def _occurrences(part: str, text: str) -> Iterator[int]:
    start = text.find(part) if part else -1
    while start >= 0:
        yield start
        start = text.find(part, start + 1)
