"""ToldSteps: a trainer of TRL's that prints nothing, and tells its steps instead."""

from collections.abc import Callable

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

OnProgress = Callable[[int, int], None]
"""Told steps just done, and steps in all."""


class ToldSteps(TrainerCallback):
    """Tells `on_progress` the steps; those of a run that goes on are told when it begins."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress = on_progress
        self.n_told = 0

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002 (a trainer calls with all of these)
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Tells the steps since the last time."""
        self.on_progress(state.global_step - self.n_told, state.max_steps)
        self.n_told = state.global_step

    on_train_begin = on_step_end


def tell_steps(trainer: Trainer, on_progress: OnProgress) -> None:
    """Takes away the callbacks that print, and adds `ToldSteps`."""
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(ToldSteps(on_progress))
