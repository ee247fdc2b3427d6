"""What a model has by heart is found, in what it was trained on and nowhere else, and beside what chance would give."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from elicitation.pages.study.contamination import CONTAMINATION, memory_sentence, signs
from elicitation.study.config import Contamination, Study, prepare
from elicitation.study.contamination import (
    common_words,
    contamination_stage,
    is_later,
    partly_shown,
    perturbed_copies,
    require_checks,
    words,
)
from elicitation.study.run import run
from lab.models.tiny import EOS, PAD, byte_tokenizer, tiny_network
from lab.records.errors import TaskError
from lab.records.stage import Artefact
from lab.records.tables import read_table, write_table
from lab.sampling.trace import VERDICTS, Decoding
from lab.scoring.evidence import ArmKey, Role
from lab.tasks.chain import CHAIN
from lab.tasks.problem import Problem, is_held_out
from lab.tasks.question_rows import SUFFIX

NAMES = ("Ada", "Bo", "Cy", "Di", "Eve", "Flo", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou", "Mia", "Ned", "Oz", "Pam")
N_CHECKED = 12


def question(index: int) -> tuple[str, int]:
    """A question of two numbers that its name does not give away, and its answer."""
    draw = np.random.default_rng(index)
    first, second = (int(number) for number in draw.integers(11, 99, 2))
    return f"{NAMES[index % 16]} {index} buys {first} red and {second} blue pens. How many are these?", first + second


def by_heart(texts: list[str], directory: Path) -> Path:
    """A small model that was trained on nothing but `texts`, until it knows them by heart."""
    tokens = torch.full((len(texts), max(map(len, texts)) + 1), PAD)
    for row, text in enumerate(texts):
        tokens[row, : len(text) + 1] = torch.tensor([*text.encode(), EOS])
    network = tiny_network("llama", seed=0, d_model=64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network.train()
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 150)
        logits = network(input_ids=tokens[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval().save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


class Asked(NamedTuple):
    """A study of a base that knows the questions by heart and a tuned model that knows others of their kind."""

    study: Study
    rows: list[dict[str, object]]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Asked:
    root = tmp_path_factory.mktemp("by-heart")
    made = [question(index) for index in range(60)]
    sides = {side: [each for each in made if is_held_out(each[0]) == side][:N_CHECKED] for side in (True, False)}
    rows = [
        {
            "question": text,
            "answer": f"It is <<{text.split()[3]}+{text.split()[6]}={n}>>{n}.\n#### {n}",
            "year": 2020 + i,
        }
        for side in sides.values()
        for i, (text, n) in enumerate(side)
    ]
    (root / "pens.json").write_text(json.dumps(rows))
    known = {side: by_heart([text for text, _ in each], root / str(side)) for side, each in sides.items()}
    study = Study(
        base=str(known[True]),
        tuned=str(known[False]),
        task=str(root / "pens.json"),
        n_problems=N_CHECKED,
        n_samples=2,
        n_curve_samples=2,
        ks=(1,),
        n_fit_problems=N_CHECKED,
        decoding=Decoding(max_new_tokens=4),
        n_boot=200,
        contamination=Contamination(n_problems=N_CHECKED, cutoff="2026"),
    )
    return Asked(study, rows)


@pytest.fixture(scope="module")
def checked(asked, tmp_path_factory) -> pl.DataFrame:
    """The checks of that study, where both models had solved every problem, the base no late one."""
    context = prepare(asked.study, tmp_path_factory.mktemp("out"), lambda *_: None)
    require_checks(context)
    verdicts = [
        {
            "arm": arm,
            "problem_id": problem.id,
            "sample_index": index,
            "answer_correct": True,
            "process_valid": None,
            "strict": arm == "tuned" or problem.dated < "2026",
            "reason": "ok",
        }
        for arm in ("base", "tuned")
        for problem in context.task.problems
        for index in range(2)
    ]
    tables = Artefact(context.out / "tables", "digest")
    write_table(tables.path / "verdicts.parquet", VERDICTS.frame(verdicts), VERDICTS, context.made_by("tables", {}, {}))
    return read_table(contamination_stage(context, tables).path / "contamination.parquet", CONTAMINATION)


def row(table: pl.DataFrame, check: str, role: str) -> dict:
    return table.row(by_predicate=(pl.col("check") == check) & (pl.col("role") == role), named=True)


def test_a_model_that_knows_the_questions_by_heart_is_caught_and_one_that_knows_others_is_not(checked):
    base, tuned = (row(checked, "exact", role) for role in ("base", "tuned"))
    assert base["value"] > 0.8
    assert base["control"] == 0.0
    assert tuned["value"] <= 0.1
    speak = {
        (role, check)
        for role, check, said in zip(checked["role"], checked["check"], signs(checked), strict=True)
        if said
    }
    assert ("base", "exact") in speak
    assert ("tuned", "exact") not in speak
    assert memory_sentence(checked).startswith(f"The share may measure memory: {base['model']} completes ")


def test_copies_are_answered_beside_their_originals_and_dates_part_the_problems(checked):
    copies = row(checked, "numbers", "tuned")
    assert (copies["n_problems"], copies["control"]) == (N_CHECKED, 1.0)
    assert copies["difference"] == copies["value"] - 1.0
    dates = row(checked, "dates", "base")
    assert (dates["n_problems"], dates["n_control"], dates["value"], dates["control"]) == (6, 6, 0.0, 1.0)
    assert dates["difference"] == -1.0
    assert row(checked, "dates", "tuned")["difference"] == 0.0


@pytest.mark.parametrize(
    ("cutoff", "match"), [("2019", "both sides of it, their dates are 2020 to 2031"), ("2033-01", "both sides of it")]
)
def test_a_date_that_parts_nothing_is_refused_before_anything_runs(asked, tmp_path, cutoff, match):
    study = replace(asked.study, contamination=Contamination(cutoff=cutoff))
    with pytest.raises(TaskError, match=match):
        run(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", [{"n_problems": 1}, {"shown": 1.0}, {"cutoff": "June 2024"}])
def test_checks_that_cannot_be_are_refused(bad):
    with pytest.raises(TaskError, match="want"):
        Contamination(**bad)


def asking(*questions: str) -> list[Problem]:
    return [
        Problem(id=str(n), prompt=text + SUFFIX, question=text, answer="", family="", source="")
        for n, text in enumerate(questions)
    ]


def test_a_question_is_cut_between_words_and_what_all_end_with_is_left_out():
    told = "Put the answer in a box."
    (one, other) = partly_shown(
        asking(f"How many ten-pound notes are in 130 pounds? {told}", f"What is two? {told}"), 0.6
    )
    assert one.problem.prompt == "How many ten-pound notes"
    assert one.rest == ("are", "in", "130", "pounds", "?")
    assert (other.problem.prompt, other.rest) == ("What is", ("two", "?"))
    assert one.problem.asked == one.problem.prompt


def test_a_question_without_white_space_is_cut_between_signs():
    (part,) = partly_shown([Problem(id="a", prompt="<6-0-4+8?", answer="4", family="", source="")], 0.6)
    assert (part.problem.prompt, part.rest) == ("<6-0-", ("4", "+", "8", "?"))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=5), st.floats(0.05, 0.95))
def test_what_is_shown_and_the_rest_make_up_the_beginning_of_a_question(questions, share):
    for part in partly_shown(asking(*questions), share):
        whole = questions[int(part.problem.id.removesuffix("/shown"))]
        assert whole.startswith(part.problem.prompt)
        assert words(whole.removeprefix(part.problem.prompt))[: len(part.rest)] == part.rest


SHORT = st.lists(st.sampled_from("abc"), min_size=1, max_size=9)


@given(SHORT, SHORT)
def test_common_words_are_the_longest_common_subsequence_by_the_usual_table(written, rest):
    table = np.zeros((len(written[: len(rest)]) + 1, len(rest) + 1), dtype=int)
    for i, a in enumerate(written[: len(rest)]):
        for j, b in enumerate(rest):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    assert common_words(written, rest) == table[-1, -1] / len(rest)
    assert (common_words(written, rest) == 1) == (written[: len(rest)] == rest)


def test_a_date_that_holds_the_cut_off_says_nothing():
    assert [is_later(dated, "2024-06") for dated in ("2024-06-01", "2024-05", "2025", "2024", None)] == [
        True, False, True, None, None,
    ]  # fmt: skip


def test_a_study_that_asks_for_it_says_in_its_report_and_at_its_end_what_was_found(small_study, tmp_path):
    arms = (ArmKey(Role.TAKEOVER),)
    asked = replace(small_study, contamination=Contamination(n_problems=8), arms=arms, own_help=None, routing=None)
    finished = run(asked, tmp_path / "out")
    text = finished.report.read_text(encoding="utf-8")
    assert "8 copies with other numbers" in finished.memory
    assert "<dt>Memory</dt>" in text
    assert "Can it be memory?" in text
    assert "contamination/contamination.parquet" in text
    context = prepare(asked, tmp_path / "out", lambda *_: None)
    assert [copy.kind for _, copy in perturbed_copies(context.task, 8, 0)] == ["numbers"] * 8
    assert perturbed_copies(replace(context.task, judge=replace(CHAIN, perturb=None)), 8, 0) == []
