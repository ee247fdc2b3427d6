"""Notebooks: each runs from a clean kernel and shows no warning, and the two halves of each pair say the same."""

import ast
import os
import pkgutil
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

import elicitation

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
FIGURE = "application/vnd.plotly.v1+json"
NOISE = re.compile(r"warning|deprecat|\d+%\|", re.IGNORECASE)
"""Words of a warning, or of a progress bar."""
LONGEST_CELL = 20

MOST_IMPORTS = 4
"""Lines of import beside that of the front door."""


def stem(script: Path) -> str:
    return script.stem


each_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=stem)


def sources(notebook) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_ten_notebooks_in_the_order_of_their_numbers():
    assert [script.stem[:3] for script in SCRIPTS] == [f"{number:02d}_" for number in range(1, 11)]


@each_notebook
def test_both_halves_of_a_pair_have_the_same_cells(script):
    paired = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert sources(paired) == sources(jupytext.read(script))


@each_notebook
def test_a_committed_notebook_holds_no_output(script):
    paired = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in paired.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
    assert set(paired.metadata) <= {"jupytext", "kernelspec"}


@each_notebook
def test_a_notebook_has_short_cells_and_ends_with_what_to_try_next(script):
    notebook = jupytext.read(script)
    lengths = [len(cell.source.splitlines()) for cell in notebook.cells]
    assert max(lengths) <= LONGEST_CELL
    assert notebook.cells[0].source.startswith(f"# {script.stem[:2]} ")
    assert notebook.cells[-1].source.startswith("## Try next\n")


@each_notebook
def test_a_notebook_comes_by_the_front_door_and_defines_nothing(script):
    nodes = list(ast.walk(ast.parse(script.read_text(encoding="utf-8"))))
    lines = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "import elicitation as el" in lines
    assert len(lines) <= 1 + MOST_IMPORTS
    assert not [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@each_notebook
def test_code_that_a_notebook_tells_in_prose_names_what_there_is(script):
    prose = "\n".join(cell.source for cell in jupytext.read(script).cells if cell.cell_type == "markdown")
    assert set(re.findall(r"\bel\.(\w+)", prose)) <= {*dir(elicitation)}
    for name in re.findall(r"`((?:lab|probes|steering|elicitation)(?:\.\w+)+)", prose):
        assert pkgutil.resolve_name(name)


@pytest.mark.parametrize(
    "script", [SCRIPTS[0], *(pytest.param(script, marks=pytest.mark.slow) for script in SCRIPTS[1:])], ids=stem
)
def test_a_notebook_runs_from_a_clean_kernel_without_a_warning(script, tmp_path, monkeypatch):
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *([inherited] if inherited else [])]))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (home / variable).mkdir(parents=True)
        monkeypatch.setenv(variable, str(home / variable))
    notebook = jupytext.read(script)
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(work)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    shown = [output.text if "text" in output else output.data.get("text/plain", "") for output in outputs]
    assert [text for text in shown if NOISE.search(text)] == []
    assert any(FIGURE in output.get("data", {}) for output in outputs)
    assert list(work.iterdir()) == []
