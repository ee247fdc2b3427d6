"""contrast: the scalar of the logits whose causes are sought, and the table of the texts it is read at."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from lab.models.load import Model
from lab.records.errors import EstimateError, SiteError
from lab.records.tables import Column, Schema
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from probes.capture.site import single_token

CONTRASTS = Schema(
    "contrasts",
    (
        Column("problem_id", pl.String, "the problem that the text belongs to"),
        Column("tokens", pl.List(pl.Int32), "the text up to the decision, prompt included"),
        Column("toward", pl.List(pl.Int32), "next tokens on the one side"),
        Column("against", pl.List(pl.Int32), "next tokens on the other side"),
    ),
)


class Sides(NamedTuple):
    """The tokens of some contrasts, filled up with -1."""

    toward: Int[Tensor, "text n_toward"]
    against: Int[Tensor, "text n_against"]


def contrast(logits: Float[Tensor, "text d_vocab"], sides: Sides) -> Float[Tensor, " text"]:
    """Log-odds, in nats, of the tokens on the one side against those on the other; gradients pass.

    logsumexp over `toward` minus logsumexp over `against`, of the next token's logits: with one token on each side the
    difference of two logits.
    """
    logits = logits.float()

    def total(ids: Int[Tensor, "text side"]) -> Float[Tensor, " text"]:
        return logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf).logsumexp(dim=1)

    return total(sides.toward) - total(sides.against)


def first_token_contrasts(
    model: Model, problems: Sequence[Problem], toward: Sequence[str], against: Sequence[str]
) -> pl.DataFrame:
    """`CONTRASTS` rows of how answers to `problems` begin: the texts are the prompts.

    In the chain world `["T"]` against `["A"]` is a worked answer against a direct one. Raises SiteError for a string
    that is not exactly one token of the model, and EstimateError as `require_contrasts` does.
    """
    sides = {"toward": _tokens(toward, model.tokenizer), "against": _tokens(against, model.tokenizer)}
    asked = [{"problem_id": problem.id, "tokens": model.prompt_ids(problem.prompt)} for problem in problems]
    table = CONTRASTS.frame([{**row, **sides} for row in asked])
    require_contrasts(model, table)
    return table


def require_contrasts(model: Model, contrasts: pl.DataFrame) -> None:
    """EstimateError unless `contrasts` is a `CONTRASTS` table of at least one row that `model` can be asked."""
    CONTRASTS.checked(contrasts)
    if contrasts.is_empty():
        raise EstimateError("no contrasts came: want at least one text with tokens on both sides")
    context = model.anatomy.context
    for row, (problem_id, tokens, toward, against) in enumerate(contrasts.iter_rows()):
        if fault := _fault(model.anatomy.d_vocab, context, tokens, toward, against):
            raise EstimateError(f"contrast {row}, of {problem_id!r}, {fault} for {model.name}")


def contrasts_digest(contrasts: pl.DataFrame) -> str:
    """Sixteen hex digits of SHA-256 over all that a `CONTRASTS` table says."""
    rows = "".join(f"{row}\n" for row in contrasts.iter_rows())
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def read_sides(contrasts: pl.DataFrame, device: torch.device) -> Sides:

    def filled_up(side: str) -> Int[Tensor, "text side"]:
        ids = [torch.tensor(row, dtype=torch.long) for row in contrasts[side].to_list()]
        return pad_sequence(ids, batch_first=True, padding_value=-1).to(device)

    return Sides(filled_up("toward"), filled_up("against"))


def _fault(
    d_vocab: int, context: int | None, tokens: Sequence[int], toward: Sequence[int], against: Sequence[int]
) -> str | None:
    if not tokens:
        return "has no text: want at least one token"
    if context is not None and len(tokens) > context:
        return f"has {len(tokens)} tokens: want at most {context}"
    if not toward or not against:
        return f"has {len(toward)} tokens toward and {len(against)} against: want at least one of each"
    if both := sorted({*toward} & {*against}):
        return f"has token {both[0]} on both sides: want it on one"
    if len({*toward}) < len(toward) or len({*against}) < len(against):
        return "has a token twice on one side: want each once"
    if outside := [token for token in (*tokens, *toward, *against) if not 0 <= token < d_vocab]:
        return f"has token {outside[0]}: want ids from 0 to {d_vocab - 1}"
    return None


def _tokens(strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not strings:
        raise SiteError("a contrast with no string on one side: want at least one on each, such as 'T' against 'A'")
    return sorted({single_token(text, tokenizer) for text in strings})


def answer_contrasts(model: Model, task: Task, traces: pl.DataFrame) -> pl.DataFrame:
    """`CONTRASTS` rows, one for each row of a `TRACES` table; the texts end just before the answer is stated.

    Toward is the first token of the gold answer; against, that of the answer which was written where it is wrong, and
    else that of the gold answer of the next problem, in the task's order, whose first token is another. Raises
    EstimateError for a trace of another task, or where `stated_at` cannot tell the place; leave such traces out.
    """
    places = {problem.id: place for place, problem in enumerate(task.problems)}
    rows: list[dict[str, object]] = []
    asked = traces.select("problem_id", "sample_index", "tokens", "text")
    for problem_id, sample_index, tokens, text in asked.iter_rows():
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
        for start in range(len(text))
        if stated
        and text.startswith(stated, start)
        and task.read_answer(text[:start] + wrong + text[start + len(stated) :]) == wrong
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
            context = [*model.prompt_ids(problem.prompt), *tokens[:n_before]]
            toward, against = (written, other) if is_right else (other, written)
            return {"tokens": context, "toward": [toward], "against": [against]}
    raise EstimateError(f"states {stated!r}, and no other answer at hand starts with another token")


def _tokens_before(model: Model, tokens: Sequence[int], text: str, start: int) -> int:
    """How many tokens end at `start`, or before the white space in front of it; EstimateError where one spans it."""
    places = range(1, len(tokens) + 1)
    n_before = bisect_right(places, start, key=lambda n: len(_decoded(model, tokens[:n])))
    before = _decoded(model, tokens[:n_before])
    if n_before == len(tokens) or not text.startswith(before) or text[len(before) : start].strip():
        raise EstimateError("states its answer inside a token: want one that starts it")
    return n_before


def _decoded(model: Model, tokens: Sequence[int]) -> str:
    return model.text(tokens)


def _first_token(model: Model, text: str) -> int:
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise EstimateError(f"would state {text!r}, which has no tokens")
    return ids[0]
