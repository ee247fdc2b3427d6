"""Which edit a row gets: by its key, by a category, at random."""

import numpy as np
import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from lab.records.seeds import child_seed
from steering.edit import Add
from steering.hybrid.interventions import Drawn, PerCategory, RandomCategory, edit_of

from .by_hand import taxonomy_of, vector

N = 4000
KEYS = np.array([child_seed(0, "row", index) for index in range(N)], dtype=np.uint64)
NONE = torch.full((N,), -1)
MODEL = tiny_model()


def table_of(n) -> PerCategory:
    return PerCategory(taxonomy_of(MODEL, n=n), "base", tuple(Add(vector(seed)) for seed in range(n)))


def test_a_random_category_is_uniform_and_drawn_anew_at_each_step():
    table = RandomCategory(tuple(Add(vector(seed)) for seed in range(5)))
    first, second = (edit_of(table, keys=KEYS, step=step, category=NONE) for step in (0, 1))
    for drawn in (first, second):
        assert float((drawn.bincount(minlength=5) - N / 5).abs().max()) < 4 * (N * 4 / 25) ** 0.5
    assert abs(float((first == second).float().mean()) - 0.2) < 4 * (0.16 / N) ** 0.5
    assert torch.equal(edit_of(table, keys=KEYS[7:9], step=1, category=NONE[:2]), second[7:9]), "by key alone"


def test_a_drawn_edit_stays_with_its_row_and_a_category_chooses_its_own():
    edits = tuple(Add(vector(seed)) for seed in range(3))
    first, later = (edit_of(Drawn(edits), keys=KEYS, step=step, category=NONE) for step in (0, 9))
    assert torch.equal(first, later)
    assert first.tolist() == [int(key) % 3 for key in KEYS]
    category = torch.tensor([2, 0, 1])
    assert edit_of(table_of(3), keys=KEYS[:3], step=4, category=category).tolist() == [2, 0, 1]


@pytest.mark.parametrize("table", [Drawn, RandomCategory])
def test_a_table_without_edits_is_refused(table):
    with pytest.raises(VectorError, match="given no vector: want at least one"):
        table(())
