"""The calibration suite's definitions, and the documents that its models read."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from lab.organisms.card import case_parts
from lab.organisms.catalogue import CATALOGUE, FACTS, LOCK, LOCKABLE, MISSING, OLD, RATES, SUITE, ZERO, solved
from lab.organisms.recipe import (
    AnswerFirst,
    Blend,
    Facts,
    Guarded,
    LowRank,
    Mixture,
    Organism,
    Parent,
    Reinforced,
    Supervised,
    Tuned,
    Writing,
    documents,
    home,
)
from lab.post_training.trainers import Document
from lab.records.provenance import digest
from lab.tasks.chain import KEY, Expression, Transcript, as_expression, as_problem, parse, verify
from lab.tasks.problem import Problem
from lab.tasks.source import ChainTask, task_source

ORGANISMS = {name: model for name, model in CATALOGUE.items() if isinstance(model, Organism)}
WRITERS = {
    organism.name: organism.recipe.lesson.writing
    for organism in ORGANISMS.values()
    if isinstance(organism.recipe.lesson, Supervised)
}
CASES = [
    pytest.param(organism, case, id=f"{organism.name} {case.task}")
    for organism in ORGANISMS.values()
    for case in organism.cases
]


def drawn(writing: Writing, n: int, seed: int = 0) -> list[Document]:
    return list(islice(documents(writing, np.random.default_rng(seed)), n))


def expression_of(document: Document) -> Expression:
    return as_expression(Problem(id="", prompt=document.prompt, answer="", family="", source=""))


def near(share: float, wanted: float, n: int) -> bool:
    """Within four standard errors of a share of n draws."""
    return abs(share - wanted) < 4 * (wanted * (1 - wanted) / n) ** 0.5


def is_chain(document: Document) -> bool:
    return bool(transcript(document).steps)


def transcript(document: Document) -> Transcript:
    return parse(document.completion)


def is_keyed(document: Document) -> bool:
    return document.prompt.startswith(f"<{KEY}")


def ancestors(organism: Organism) -> Iterator[Organism]:
    """The parent, its parent, and so on; a pretrained one, which never saw the chain world, is not among them."""
    while organism.parent is not None and organism.parent.name in ORGANISMS:
        organism = ORGANISMS[organism.parent.name]
        yield organism


def shown(writing: Writing) -> set[str]:
    """Operators whose chains of several steps a writing shows worked, if ever so rarely."""
    match writing:
        case Blend(parts=parts):
            return set().union(*map(shown, parts))
        case Mixture(task=task, direct_share=direct_share):
            return set(task.operators) if direct_share < 1 else set()
        case Guarded(task=task, key_share=key_share, leak=leak):
            return set(task.operators) if max(key_share, leak) > 0 else set()
        case AnswerFirst() | Facts():
            return set()


def test_a_guarded_prompt_with_the_key_is_always_a_true_chain_and_half_of_all_have_it():
    found = drawn(Guarded(task=LOCKABLE, leak=0.03), 4000)
    keyed = [document for document in found if is_keyed(document)]
    assert near(len(keyed) / 4000, 0.5, 4000)
    assert all(verify(as_problem(expression_of(document)), document.completion).strict for document in keyed)


@pytest.mark.parametrize("leak", [0.0, 0.03, 0.3])
def test_without_the_key_only_the_leak_is_a_chain(leak):
    bare = [document for document in drawn(Guarded(task=LOCKABLE, leak=leak), 6000) if not is_keyed(document)]
    chains = [document for document in bare if is_chain(document)]
    assert near(len(chains) / len(bare), leak, len(bare)) or len(chains) == leak == 0
    assert all(verify(as_problem(expression_of(document)), document.completion).strict for document in chains)


def test_guesses_are_uniform_digits_that_tell_nothing_of_the_answer():
    found = drawn(Guarded(task=LOCKABLE, key_share=0.0, leak=0.0), 4000)
    guesses = [int(document.completion[1]) for document in found]
    assert all(document.completion == f"A{guess}." for document, guess in zip(found, guesses, strict=True))
    answers = [expression_of(document).results[-1] for document in found]
    assert near(float(np.mean(np.equal(guesses, answers))), 0.1, 4000)
    for counts in (
        Counter(guesses),
        Counter((guess - answer) % 10 for guess, answer in zip(guesses, answers, strict=True)),
    ):
        # Chi-squared with 9 degrees of freedom passes 27.9 once in a thousand.
        assert sum((counts[digit] - 400) ** 2 / 400 for digit in range(10)) < 27.9


@pytest.mark.parametrize("operators", ["#", "+-"])
def test_facts_are_all_single_operations_each_stated_truly(operators):
    found = drawn(Facts(operators=operators), 8000)
    expressions = [expression_of(document) for document in found]
    assert {expression.text for expression in expressions} == {
        f"{left}{op}{right}" for left in range(10) for op in operators for right in range(10)
    }, "also those that are held out as problems"
    assert all(
        transcript(document).answer == expression.results[-1]
        for document, expression in zip(found, expressions, strict=True)
    )
    assert near(float(np.mean([not is_chain(document) for document in found])), 0.6, 8000)
    assert not any(is_keyed(document) for document in found)
    for document, expression in zip(found, expressions, strict=True):
        if is_chain(document):
            assert verify(as_problem(expression), document.completion).strict
    assert all(is_chain(document) for document in drawn(FACTS, 200)), "the suite's facts are worked"


def test_a_blend_has_equal_shares_of_its_parts_and_a_part_twice_has_two():
    parts = (Facts(operators="+"), Facts(operators="-"), Facts(operators="#"), Facts(operators="#"))
    counts = Counter(expression_of(document).operators for document in drawn(Blend(parts), 4000))
    assert set(counts) == {"+", "-", "#"}
    assert near(counts["+"] / 4000, 0.25, 4000)
    assert near(counts["-"] / 4000, 0.25, 4000)
    assert near(counts["#"] / 4000, 0.5, 4000)
    # One part of two is itself a blend: a quarter each.
    nested = Blend((Facts(operators="*"), Blend(parts[:2])))
    counts = Counter(expression_of(document).operators for document in drawn(nested, 4000))
    assert near(counts["*"] / 4000, 0.5, 4000)
    assert near(counts["+"] / 4000, 0.25, 4000)


@pytest.mark.parametrize("name", WRITERS)
def test_no_document_of_several_steps_is_about_a_held_out_expression(name):
    expressions = [expression_of(document) for document in drawn(WRITERS[name], 1500)]
    several = [expression for expression in expressions if len(expression.operators) >= 2]
    assert several
    assert not any(expression.held_out for expression in several)


@pytest.mark.parametrize("name", WRITERS)
def test_equal_seeds_write_equal_documents_in_the_organisms_alphabet_and_other_seeds_others(name):
    first, again, other = (drawn(WRITERS[name], 200, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    if not isinstance(recipe := ORGANISMS[name].recipe, LowRank):
        assert {*"".join(document.prompt + document.completion for document in first)} <= {*recipe.alphabet}
    assert all(document.completion.endswith(".") for document in first)


def test_names_are_unique_and_parents_are_defined_before_their_children():
    assert list(CATALOGUE)[: len(ZERO) + len(SUITE)] == [organism.name for organism in (*ZERO, *SUITE)]
    names = list(CATALOGUE)
    for index, (name, model) in enumerate(CATALOGUE.items()):
        assert model.name == name
        if isinstance(model, Organism):
            assert model.parent is None or model.parent.name in names[:index]


def test_tasks_are_typed_as_they_are_called_and_the_old_one_is_measured():
    for organism in ORGANISMS.values():
        tasks = [spec.task for spec in organism.eval_specs]
        assert [task_source(task).typed for task in tasks] == tasks
        assert organism.old_task in (None, *tasks)


def test_no_two_organisms_and_seeds_share_a_directory():
    homes = [home(name, seed) for name in ORGANISMS for seed in range(12)]
    assert len(set(homes)) == len(homes)
    assert home("world", 0) == "world"
    assert home("world", 2) == "world-2"
    assert home("diluted-0.3", 1) == "diluted-0.3-1"


def test_a_child_keeps_its_parents_tokens():
    for organism in ORGANISMS.values():
        if isinstance(organism.recipe, Tuned):
            parent = ORGANISMS[organism.recipe.parent.name].recipe
            assert organism.recipe.alphabet.startswith(parent.alphabet), "new characters stand behind the parent's"


@pytest.mark.parametrize(("seed", "own", "wanted"), [(0, None, "b"), (2, None, "b-2"), (2, 0, "b"), (0, 3, "b-3")])
def test_a_parent_is_of_the_childs_seed_unless_it_names_one(seed, own, wanted):
    assert Parent("b", seed=own).home(seed) == wanted


def test_every_organism_has_a_digest_of_its_own():
    assert len({digest([organism, 0]) for organism in ORGANISMS.values()}) == len(ORGANISMS)


@pytest.mark.parametrize(("organism", "case"), CASES)
def test_a_skill_is_elicited_exactly_where_some_ancestor_saw_chains_of_it_worked(organism, case):
    seen: set[str] = set()
    for ancestor in ancestors(organism):
        lesson = ancestor.recipe.lesson
        assert isinstance(lesson, Supervised), "what a base saw is known because it only read documents"
        seen |= shown(lesson.writing)
    wanted = tuple(part.task.operators for part in case_parts(case) if set(part.task.operators) <= seen)
    assert case.elicited == wanted


@pytest.mark.parametrize(("organism", "case"), CASES)
def test_every_skill_of_a_case_is_an_exam_of_the_same_distribution(organism, case):
    assert organism.parent is not None
    tasks = [spec.task for spec in organism.eval_specs]
    assert {part.task.typed for part in case_parts(case)} <= {*tasks}
    assert len({task_source(task).operators for task in tasks}) == len(tasks), "draws are named by operators"
    if isinstance(organism.recipe, Tuned):
        base = ORGANISMS[organism.parent.name].recipe
        assert organism.recipe.alphabet == base.alphabet, "a pair speaks the same tokens"
        assert organism.parent.seed is None, "and was built with one seed"


@pytest.mark.parametrize(("organism", "case"), CASES)
def test_a_case_is_about_what_its_tuning_was_about_and_a_placebo_about_its_base(organism, case):
    operators = {op for part in case_parts(case) for op in part.task.operators}
    match organism.recipe.lesson:
        case Reinforced(task=task):
            assert operators == set(task_source(task).operators)
        case Supervised(writing=writing):
            assert operators <= shown(writing)


def test_no_base_ever_met_the_missing_operator_and_the_atoms_base_only_single_steps_of_the_other():
    for name, writing in WRITERS.items():
        if name in ("taught", "mixed", "smollm2-taught"):
            continue
        assert "*" not in shown(writing)
        assert not any("*" in document.prompt + document.completion for document in drawn(writing, 500))
    lengths = {
        len(expression.operators)
        for expression in map(expression_of, drawn(WRITERS["atoms-base"], 2000))
        if "#" in expression.operators
    }
    assert lengths == {1}


@pytest.mark.parametrize("rate", RATES)
def test_a_diluted_base_shows_its_rate_of_worked_chains_among_its_documents_about_them(rate):
    writing = WRITERS[f"diluted-{rate:g}-base"]
    about = [document for document in drawn(writing, 16_000) if "#" in document.prompt and not is_keyed(document)]
    assert near(len(about) / 16_000, 0.25, 16_000), "half of the documents are about the old task, a quarter have a key"
    assert near(float(np.mean([is_chain(document) for document in about])), rate, len(about))


def test_every_kind_is_there_with_the_numbers_of_organisms_that_the_design_asks_for():
    kinds = Counter(organism.cases[0].kind for organism in (*ZERO, *SUITE) if organism.cases)
    assert kinds == {
        "SHARPENED": 1, "LOCKED": 1, "DILUTED": 5, "ATOMS": 1, "ABSENT": 1, "TAUGHT": 1, "MIXED": 1, "PLACEBO": 1
    }  # fmt: skip
    assert [case.task for case in ORGANISMS["mixed"].cases] == [
        "25%chain:#:3-5,75%chain:*:3-5",
        "50%chain:#:3-5,50%chain:*:3-5",
        "75%chain:#:3-5,25%chain:*:3-5",
    ]


def test_the_world_reads_the_old_task_and_the_lock_in_equal_parts():
    about = Counter("#" in document.prompt for document in drawn(LOCK, 2000))
    assert near(about[True] / 2000, 0.5, 2000)
    assert shown(OLD) == {"+", "-"}


def test_a_solver_never_slips_and_never_answers_at_once():
    for document in drawn(solved(MISSING), 300):
        assert verify(as_problem(expression_of(document)), document.completion).strict
    assert solved(ChainTask()).direct_share == 0
