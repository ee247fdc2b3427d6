"""`lab check-pair`: what is wrong comes first, refusals leave with 2, and no weights are read."""

import pytest

import elicitation as el
from lab.models import load
from lab.records.errors import ModelError
from tests.kinds import one_always
from tests.real import tokenizer_directory


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*_):
        raise AssertionError("weights are read")

    monkeypatch.setattr(load, "load", refuse)
    monkeypatch.setattr(load, "opened_directory", refuse)


def test_a_pair_that_can_be_studied_is_told_row_by_row(lab, checkpoints, no_weights):
    sizes = ("--n-problems", "9", "--n-fit-problems", "9")
    code, shown, complaint = lab("check-pair", *map(str, checkpoints), "--task", "chain:+:1-1", *sizes)
    assert (code, complaint) == (0, "")
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("ok ")] == ["ok"] * sum(
        line.startswith("ok ") for line in lines
    )
    assert any("the same ids of 9 probes, 9 prompts" in " ".join(line.split()) for line in lines)
    assert "arms: in step" in shown
    assert "arithmetic, no run" in " ".join(shown.split())
    assert lines[-1] == "a study of this pair can begin"


def test_refusals_come_first_and_leave_with_two(lab, checkpoints, no_weights):
    code, shown, complaint = lab("check-pair", str(checkpoints.base), "zero-rl")
    assert (code, complaint) == (2, "")
    verdicts = [
        line.split()[0] for line in shown.splitlines() if line.startswith(("refused ", "note ", "differs ", "ok "))
    ]
    assert verdicts == sorted(verdicts, key=("refused", "note", "differs", "ok").index)
    n_refused = verdicts.count("refused")
    assert n_refused >= 2
    assert shown.splitlines()[-1] == f"no study of this pair can begin: {n_refused} refused, see above"
    assert "arms:" not in shown


def test_answers_that_do_not_fit_are_refused_with_the_flag(lab):
    code, shown, _ = lab("check-pair", "zero-base", "zero-rl", "--max-new-tokens", "5000")
    assert code == 2
    assert "lower --max-new-tokens, which is 5,000" in " ".join(shown.split())


def test_a_name_that_is_none_gets_one_line(lab):
    code, shown, complaint = lab("check-pair", "zero-baes", "zero-rl")
    assert (code, shown) == (2, "")
    assert "did you mean 'zero-base'?" in complaint


@pytest.mark.real_data
@pytest.mark.parametrize(
    "names", one_always([("SmolLM2-135M", "SmolLM2-135M-Instruct"), ("Qwen2.5-Math-7B", "DeepSeek-R1-Distill-Qwen-7B")])
)
def test_a_real_pair_is_accepted_from_its_small_files(lab, no_weights, names):
    code, shown, complaint = lab("check-pair", *(str(tokenizer_directory(name)) for name in names))
    assert (code, complaint) == (0, "")
    assert shown.splitlines()[-1] == "a study of this pair can begin, once its weights are here"


def test_the_front_door_gives_the_rows_as_a_table(no_weights):
    table = el.check_pair("zero-base", "zero-rl")
    assert table.columns == ["fact", "base", "tuned", "verdict", "advice"]
    assert not {"memory", "time"} & {*table["fact"]}
    assert set(table["verdict"]) == {"ok"}
    assert el.check_pair("zero-base", "zero-rl", max_new_tokens=5000).filter(verdict="refused").height == 1
    with pytest.raises(ModelError, match="did you mean"):
        el.check_pair("zero-baes", "zero-rl")
