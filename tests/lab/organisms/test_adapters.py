"""The definitions of adapted models."""

from lab.models.source import PRETRAINED
from lab.organisms.adapters import ADAPTED
from lab.tasks.source import source_name, task_source


def test_parents_stand_before_their_children_and_tasks_are_typed_as_they_are_called():
    known = list(PRETRAINED)
    for name, adapted in ADAPTED.items():
        assert (adapted.name, adapted.parent in known) == (name, True)
        known.append(name)
        for eval_spec in adapted.eval_specs:
            assert source_name(task_source(eval_spec.task)) == eval_spec.task
