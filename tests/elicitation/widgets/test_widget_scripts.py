"""The widgets' scripts: they need no network, and write what they are given as text."""

import re
import subprocess
import sys

import polars as pl
import pytest

from elicitation.widgets.chart import error_bars
from elicitation.widgets.live import SCRIPTS

scripts = pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.js")), ids=lambda script: script.stem)

IMPORT = """
import sys
import elicitation.widgets.live, elicitation.widgets.live
print(sorted({"anywidget", "ipywidgets", "IPython"} & set(sys.modules)))
"""


@scripts
def test_a_script_asks_for_nothing_and_never_writes_markup(script):
    code = script.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", code)
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|\bimport\b", code)


@scripts
def test_a_script_is_a_module_that_renders(script):
    assert script.read_text(encoding="utf-8").rstrip().endswith("export default { render };")


def test_the_package_is_imported_without_anywidget():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_error_bars_are_distances_from_the_value():
    table = pl.DataFrame({"value": [0.5, 1.0], "low": [0.25, 1.0], "high": [0.75, 1.5]})
    assert error_bars(table) == {"symmetric": False, "array": [0.25, 0.5], "arrayminus": [0.25, 0.0]}
