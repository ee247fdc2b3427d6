"""The way from the command to the report stays short: modules that the demo enters, as ARCHITECTURE.md lists them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 86


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_enters_functions_of_few_modules_outside_the_report(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = ROOT / "tests" / "architecture" / "entered.py"
    command = [sys.executable, str(script), str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    entered = done.stdout.split("ENTERED\n")[1].split()
    outside = [path for path in entered if not path.startswith("elicitation/pages/")]
    assert len(outside) <= MOST, outside
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `([a-z_/]+/)`: (.+)$", page, re.MULTILINE)
    assert {f"{folder}{name}.py" for folder, names in listed for name in names.split()} == {*outside}
