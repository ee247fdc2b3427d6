"""What a trainer tells of its steps, and which checkpoint it goes on from."""

from transformers import TrainerControl, TrainerState, TrainingArguments

from lab.post_training.supervised import ToldSteps, last_checkpoint


def test_steps_are_told_as_they_are_done_and_those_of_an_earlier_attempt_first(tmp_path):
    told: list[tuple[int, int]] = []
    steps = ToldSteps(lambda n_done, total: told.append((n_done, total)))
    arguments, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerControl()
    steps.on_train_begin(arguments, TrainerState(global_step=20, max_steps=60), control)
    for step in (21, 22):
        steps.on_step_end(arguments, TrainerState(global_step=step, max_steps=60), control)
    assert told == [(20, 60), (1, 60), (1, 60)]


def test_the_last_whole_checkpoint_is_gone_on_from_and_one_that_was_cut_off_is_not(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-120").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
