"""`lab doctor`: plain words within eighty columns, JSON, and the exit code."""

import json
import shlex

import pytest

from elicitation.cli import doctor as run_doctor
from elicitation.cli.doctor import Finding, shown

COMMAND = "python -m pip install --constraint /a/long/way/to/constraints.txt '/a/long/way/to/the/checkout[ray]'"
BROKEN = Finding(section="packages", name="torch", state="broken", description="is missing, want >=2.7", mend=COMMAND)
RIGHT = Finding(section="packages", name="numpy", state="ok", description="2.4.6")


def test_the_report_fits_the_terminal_and_ends_with_the_verdict(lab, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, complaint = lab("doctor")
    assert (code, complaint) == (0, "")
    lines = printed.splitlines()
    assert lines[-1] == "everything the core needs is here"
    # A path is not cut, so that it can be copied.
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []
    assert "machine" in lines
    assert "organisms" in lines


def test_json_holds_every_finding(lab):
    code, printed, complaint = lab("doctor", "--json")
    assert (code, complaint) == (0, "")
    description = json.loads(printed)
    assert description["healthy"] is True
    assert {"section", "name", "state", "told", "mend"} == set(description["findings"][0])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_broken_core_leaves_with_one(lab, monkeypatch, options):
    monkeypatch.setattr(run_doctor, "findings", lambda *_: (RIGHT, BROKEN))
    code, printed, _ = lab("doctor", *options)
    assert code == 1
    assert "torch" in printed


def test_the_verdict_names_what_is_broken():
    assert [*shown([RIGHT, BROKEN], 79)][-1] == "broken: torch; the lines above say what to do"


def test_a_command_over_several_lines_can_be_copied_whole():
    text = "\n".join(shown([BROKEN], 60))
    copied = text[text.index("python") : text.index("[ray]'") + len("[ray]'")]
    assert "\\\n" in copied
    assert shlex.split(copied.replace("\\\n", " ")) == shlex.split(COMMAND)


def test_versions_that_are_right_share_an_entry_and_the_others_have_their_own():
    lines = [*shown([RIGHT, BROKEN], 79)]
    assert lines[0] == "packages"
    assert lines[1].split() == [
        "ok",
        "versions",
        "1",
        "in",
        "the",
        "ranges",
        "that",
        "are",
        "declared:",
        "numpy",
        "2.4.6",
    ]
    assert lines[2].split()[:3] == ["BROKEN", "torch", "is"]
