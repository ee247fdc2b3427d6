"""What a trainer tells of its steps, and which checkpoint it goes on from."""

from transformers import (
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lab.models.tiny import tiny_network
from lab.post_training.trainers import last_checkpoint, tell_steps


def test_steps_are_told_as_they_are_done_and_those_of_an_earlier_attempt_first(tmp_path):
    told: list[tuple[int, int]] = []
    arguments, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerControl()
    trainer = Trainer(tiny_network("llama", seed=0), args=arguments)
    tell_steps(trainer, lambda n_done, total: told.append((n_done, total)))
    assert not any(isinstance(one, PrinterCallback | ProgressCallback) for one in trainer.callback_handler.callbacks)
    steps = trainer.callback_handler.callbacks[-1]
    assert not isinstance(steps, DefaultFlowCallback)
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
