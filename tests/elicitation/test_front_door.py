"""The front door: what `import elicitation as el` offers, how cheaply, and that every example is true."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

import elicitation as el
from elicitation.front.opening import typed
from lab.records.errors import LabError, ModelError, TaskError

VECTOR = el.SteeringVector({el.Site(1): torch.ones(128)}, {el.Site(1): 9.0}, "ones")
SOURCE = Path(el.__file__)
HEAVY = ("torch", "transformers", "polars", "numpy", "plotly")
KINDS = {
    "gates": "steering.gate",
    "routers": "steering.hybrid.routers",
    "interventions": "steering.hybrid.interventions",
}
VALUES = [name for name in dir(el) if name not in KINDS]


def ran(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def test_the_import_brings_nothing_heavy_and_takes_under_a_fifth_of_a_second():
    timed = ran("import elicitation", "-X", "importtime").stderr.splitlines()
    brought = {line.rpartition("|")[2].strip() for line in timed}
    assert brought.isdisjoint(HEAVY)
    (mine,) = (line for line in timed if line.endswith("| elicitation"))
    assert int(mine.split("|")[1]) < 200_000


def test_editors_are_told_the_very_names_that_are_brought():
    told = {}
    for line in ast.parse(SOURCE.with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(line, ast.ImportFrom):
            # Of imports in a stub, only those that say a name again are names that others may use.
            told |= {alias.asname: (line.module, alias.name) for alias in line.names}
    assert set(told) == set(dir(el))
    for name in VALUES:
        module, there = told[name]
        assert getattr(el, name) is getattr(import_module(module), there)


def test_no_name_is_also_a_package_that_would_take_its_place():
    assert {path.stem for path in SOURCE.parent.iterdir()}.isdisjoint(dir(el))


def test_an_unknown_name_is_answered_with_where_to_look():
    with pytest.raises(AttributeError, match=r"elicitation has no 'zzz': dir\(elicitation\) lists what it has"):
        el.zzz  # noqa: B018


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        (lambda: el.lod, "load"),
        (lambda: el.load("zero-baes"), "zero-base"),
        (lambda: el.task("chian"), "chain"),
        (lambda: el.task("gim:chain_sum"), "gym"),
        (lambda: el.export(VECTOR, "mine.guff", el.load("zero-base")), ".gguf"),
        (lambda: el.export(VECTOR, "mine", el.load("zero-base"), form="guff"), "gguf"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(asked, near):
    with pytest.raises((AttributeError, LabError), match=re.escape(f"(did you mean {near!r}?)")):
        asked()


@pytest.mark.parametrize("prompt", ["chain", "chain:#", "gym:chain_sum", "25%chain:#:3-5,75%chain:+-", "mine.jsonl"])
def test_a_prompt_that_is_a_task_is_refused(prompt):
    with pytest.raises(TaskError, match=re.escape(f"did you mean el.task({prompt!r})?")):
        el.sample(el.load("zero-base"), prompt)


@pytest.mark.parametrize("prompt", ["<1+2?", "5%x", "the chain", "chains", "see mine.jsonl", ""])
def test_other_prompts_are_not_taken_for_tasks(prompt):
    assert typed("one", prompt).prompt == prompt


def test_a_tuned_model_alone_knows_its_base():
    pair = el.pair("zero-rl")
    assert (pair.base.name, pair.tuned.name) == ("zero-base", "zero-rl")
    with pytest.raises(ModelError, match="zero-base: want BASE TUNED, or one shipped model that was tuned"):
        el.pair("zero-base")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ('el.sample("zero-base", "<1+2?")', "'zero-base' for models: want each loaded, as by el.load('zero-base')"),
        ('el.sample(["zero-base"], "<1+2?")', "['zero-base'] for models: want each loaded"),
        ('el.generate("zero-base", "<1+2?")', "'zero-base' for models: want each loaded"),
        ("el.load(3)", "no model '3'; accepted: a model directory"),
        ("el.task(3)", "task '3' is not one of 'chain'"),
        ('el.generate(base, "<1+2?", edits="x")', "'x' among the edits: want a change by a vector"),
        ('el.next_token(base, "<1+2?", edits=[3])', "3 among the edits: want a change by a vector"),
        ("el.gates.WhileWriting(0)", "a schedule of steps 0: want tokens of the completion from 0 on, as (0,)"),
        ("el.chart(traces, x='arm', kind='lines')", "a chart of kind 'lines': want one of bar, line, dots"),
        ("el.Add(3)", "an edit by 3: want a vector, such as el.load_vector(path)"),
    ],
)
def test_what_is_of_another_kind_is_refused_in_a_sentence(asked, said, refusals):
    assert refusals(asked).startswith(said)


@pytest.fixture(scope="module")
def refusals() -> Iterator[Callable[[str], str]]:
    """What a notebook is told, in a process without the tests' own checks of types."""
    code = """
import elicitation as el
from lab.records.errors import LabError
base, task = el.load("zero-base"), el.task("chain", n=2)
traces = el.sample(base, task)
while asked := input():
    try:
        print(eval(asked))
    except LabError as error:
        print(error, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def told(asked: str) -> str:
            print(asked, file=process.stdin, flush=True)
            return process.stdout.readline()

        yield told
        print(file=process.stdin, flush=True)


def test_a_model_is_loaded_without_a_bar_and_transformers_keeps_its_own(capfd):
    for shown, switch in ((False, logging.disable_progress_bar), (True, logging.enable_progress_bar)):
        switch()
        el.load("locked")
        assert logging.is_progress_bar_enabled() == shown
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_of_value_is_its_module(name):
    assert getattr(el, name) is import_module(KINDS[name])


@pytest.fixture(scope="module")
def at_hand(tmp_path_factory) -> dict[str, object]:
    """What the examples may name without making it."""
    base, task = el.load("zero-base"), el.task("chain", n=40)
    store = el.store(base, el.sample(base, task, n=4), el.Site(2), out=tmp_path_factory.mktemp("store") / "store")
    sae = el.train_sae(store, d_sae=64, n_tokens=8192, batch_size=256, out=tmp_path_factory.mktemp("sae") / "saes")
    return {"el": el, "torch": torch, "base": base, "task": task, "store": store, "sae": sae}


@pytest.mark.parametrize("name", VALUES)
def test_every_name_has_a_docstring_whose_examples_are_true(name, at_hand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = inspect.getdoc(getattr(el, name))
    assert text
    example = doctest.DocTestParser().get_doctest(text, dict(at_hand), f"el.{name}", None, 0)
    assert example.examples, f"el.{name} has no example"
    said: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not failed, "".join(said)
