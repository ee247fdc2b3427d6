"""Stored completions: read from a table of a study or from rows of anyone, and where two readers disagree on them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from lab.records.errors import TaskError, whole
from lab.records.provenance import read_json, require_intact
from lab.records.tables import Column, Schema, read_table, reading_table
from lab.sampling.trace import TRACES, verdict_table
from lab.tasks.math_answer import MATH, final_answer, read_by_math_verify
from lab.tasks.problem import PROBLEMS, Judge, Problem, problems_of
from lab.tasks.question_rows import ANSWERS, QUESTIONS, golds_of, said_last, value_at
from lab.tasks.row_file import rows_of_file
from lab.tasks.source import task_source

COMPLETIONS = ("completion", "completions", "response", "responses", "generation", "generations", "generated_text",
    "model_output", "output", "outputs", "prediction", "text")  # fmt: skip
_SOUGHT = {"completion": COMPLETIONS, "gold": ("gold", *ANSWERS)}
STOPS = ("stop", "finish_reason", "stop_reason")
CUT = ("length", "max_tokens", "max_length")
"""What servers call a completion that the limit ended."""
DISAGREEMENTS = Schema(
    "readers",
    (
        Column("problem_id", pl.String, "the problem, or the row of the file"),
        Column("sample_index", pl.Int32, "number of the completion, from 0"),
        Column("gold", pl.String, "gold answer"),
        Column("ours", pl.String, "the answer as the lab reads it; null where none is stated"),
        Column("read_by", pl.String, "by which rule it was read"),
        Column("outcome", pl.String, "right, wrong, no answer or cut, by the lab"),
        Column("theirs", pl.String, "the answer that math-verify reads in the whole text; null where it reads none"),
        Column("theirs_right", pl.Boolean, "whether math-verify finds that equal to the gold answer"),
        Column("text", pl.String, "the completion"),
    ),
)
"""Completions of which one reader says that they are right and the other that they are not."""


class Stored(NamedTuple):
    """Completions with what they answer."""

    traces: pl.DataFrame
    """The columns of `TRACES` that verdicts need."""
    problems: tuple[Problem, ...]
    judge: Judge
    described: str
    """Where completions and gold answers are from."""


def stored(path: Path, task: str | None, columns: tuple[str | None, str | None], *, opens_thought: bool) -> Stored:
    """A `TRACES` table with the problems of its study or sample, or rows with a completion and a gold answer.

    `task` is whose judge judges them, as a user types it; the study's own, or mathematical answers, where None.
    `columns` name that of the completion and that of the gold answer, found by rule where None. With `opens_thought`
    completions begin inside a thought. Raises TaskError, with what was looked for, where something is missing.
    """
    if path.suffix == ".parquet" and path.is_file():
        with reading_table(path):
            is_ours = set(TRACES.dtypes) <= set(pl.read_parquet_schema(path))
        if is_ours:
            return _of_study(path, task)
        require_intact(path)
    rows: list[dict[str, object]] = []
    problems: list[Problem] = []
    used = "", ""
    for number, row in rows_of_file(path):
        if isinstance(row, TaskError):
            raise row
        used = tuple(map(partial(_column, path, number, row), _SOUGHT, columns))
        prompt = next((said for name in QUESTIONS if (said := said_last(value_at(row, name))) is not None), "")
        gold = value_at(row, used[1])
        golds = golds_of(row, used[1], named=True) or ((gold,) if isinstance(gold, str) and gold.strip() else ())
        if not golds:
            raise TaskError(f"{path}, row {number} has no gold answer in {used[1]!r}: name it with --gold-column")
        first, *others = golds
        problem = Problem(
            id=f"row {number}",
            prompt=whole(prompt),
            answer=whole(first),
            aliases=(*map(whole, others),),
            family=path.stem,
            source=str(path),
        )
        problems.append(problem)
        stop = "length" if any(row.get(name) in CUT for name in STOPS) else "eos"
        for index, text in enumerate(_texts(value_at(row, used[0]))):
            said = whole(f"<think>{text}" if opens_thought else text)
            rows.append({"arm": path.stem, "problem_id": problem.id, "sample_index": index, "text": said, "stop": stop})
    if not rows:
        raise TaskError(f"{path} is empty: want rows with a completion and a gold answer")
    judge = MATH if task is None else task_source(task).judge(problems)
    told = f"completion from `{used[0]}`, gold answer from `{used[1]}`"
    return Stored(pl.DataFrame(rows), tuple(problems), judge, told)


def _column(path: Path, number: int, row: Mapping[str, object], what: str, given: str | None) -> str:
    """The column of a row in which `what` is, `given` or the first that its rule finds; a completion may be null."""
    names = (given,) if given else _SOUGHT[what]
    there = [name for name in names if value_at(row, name) is not None]
    there += [name for name in names if what == "completion" and name in row]
    if not there:
        has, wanted = ", ".join(map(repr, row)), ", ".join(dict.fromkeys(names))
        raise TaskError(f"{path}, row {number} has {has}, and no {what} in {wanted}: name it with --{what}-column")
    return there[0]


def _texts(value: object) -> list[str]:
    """One completion or several; of a chat what the assistant says last, of null nothing."""
    is_chat = isinstance(value, list) and any(isinstance(turn, dict) and {"role", "from"} & {*turn} for turn in value)
    if isinstance(value, list) and not is_chat:
        return [text for one in value for text in _texts(one)]
    said = said_last([value] if isinstance(value, dict) else value, ("assistant", "gpt", "model"))
    return [said if said is not None else "" if is_chat or value is None else str(value)]


def _of_study(path: Path, task: str | None) -> Stored:
    """Traces of `lab study` or `lab sample`, whose problems lie beside them."""
    out = path.resolve().parents[min(2, len(path.resolve().parents) - 1)]
    beside = [path.with_suffix(".problems.parquet"), *sorted(out.glob("problems/*.parquet"))]
    known = [problem for place in beside if place.exists() for problem in problems_of(read_table(place, PROBLEMS))]
    traces = read_table(path, TRACES)
    strangers = sorted({*traces["problem_id"]} - {problem.id for problem in known})
    if strangers:
        raise TaskError(
            f"{path} answers {strangers[0]!r}, which is not among the {len(known)} problems beside it: want the folder "
            "of its study, or the .problems.parquet that lab sample wrote"
        )
    if task is None and not (out / "study.json").exists():
        raise TaskError(f"{path} lies in no study that says what its task is: name it with --task")
    typed = task or read_json(out / "study.json", "name the task with --task").get("task")
    if not isinstance(typed, str):
        raise TaskError(f"{out / 'study.json'} gives no task: name it with --task")
    return Stored(traces, tuple(known), task_source(typed).judge(known), f"{len(known)} problems of {typed}")


class Rejudged(NamedTuple):
    """Stored completions with what became of them."""

    verdicts: pl.DataFrame
    """`VERDICTS`, in their order."""
    differing: pl.DataFrame
    """`DISAGREEMENTS`; only mathematical answers are read by both."""


def rejudged(found: Stored, on_progress: Callable[[int], None] = lambda _: None) -> Rejudged:
    """The verdicts, and where math-verify's own reading differs, which takes whole texts, thoughts and run-ons too."""
    golds = {problem.id: (problem.answer, *problem.aliases) for problem in found.problems}
    parts: list[pl.DataFrame] = []
    rows: list[dict[str, object]] = []
    for part in found.traces.iter_slices(32):
        parts.append(verdict_table(part, found.problems, found.judge.verify))
        for text, verdict in zip(part["text"], parts[-1].iter_rows(named=True), strict=True):
            gold, *others = golds[verdict["problem_id"]]
            if found.judge is not MATH:
                continue
            theirs, right = read_by_math_verify(gold, text)
            right = right or any(read_by_math_verify(other, text)[1] for other in others)
            if right != verdict["answer_correct"]:
                kept = {name: verdict[name] for name in ("problem_id", "sample_index", "read_by", "outcome")}
                read = {"ours": final_answer(text), "theirs": theirs, "theirs_right": right}
                rows.append(kept | read | {"gold": gold, "text": text})
        on_progress(part.height)
    return Rejudged(pl.concat(parts), DISAGREEMENTS.frame(rows))
