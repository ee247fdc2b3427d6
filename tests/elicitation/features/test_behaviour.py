import pytest

from elicitation.study.fits import DISAGREEMENTS
from elicitation.study.interventions import Behaviour, behaviour, behaviour_contrasts
from lab.models.tiny import tiny_model
from lab.tasks.problem import Problem
from probes.attribution.contrast import require_contrasts


def disagreements(*rows):
    return DISAGREEMENTS.frame(
        [
            {"problem_id": f"p{i}", "sample_index": 0, "position": position, "base_token": base, "tuned_token": tuned}
            for i, (position, base, tuned) in enumerate(rows)
        ]
    )


def test_the_most_frequent_pair_of_first_tokens_is_sought():
    found = behaviour(disagreements((0, 65, 84), (0, 65, 66), (0, 65, 84), (3, 70, 71), (3, 70, 71), (3, 70, 71)))
    assert found == Behaviour(toward=84, against=65)


def test_of_pairs_as_frequent_the_lower_ids_are_taken():
    assert behaviour(disagreements((0, 65, 84), (0, 64, 80))) == Behaviour(toward=80, against=64)


@pytest.mark.parametrize("rows", [(), ((2, 65, 84),)], ids=["no decision", "none at the first token"])
def test_models_that_open_alike_show_no_behaviour(rows):
    assert behaviour(disagreements(*rows)) is None


def test_contrasts_are_of_the_prompts():
    model = tiny_model()
    problems = [Problem(id=f"p{i}", prompt=f"<{i}+1?", answer="1", family="f", source="s") for i in range(3)]
    table = behaviour_contrasts(model, problems, Behaviour(toward=84, against=65))
    require_contrasts(model, table)
    assert table["tokens"].to_list() == [list(problem.prompt.encode()) for problem in problems]
    assert table["toward"].to_list() == [[84]] * 3
    assert table["against"].to_list() == [[65]] * 3
