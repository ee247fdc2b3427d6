"""Supervised training, from scratch or from a checkpoint, by TRL's SFT trainer: a door to trl."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lab.errors import TaskError
from lab.post_training.scored_positions import scored_positions
from lab.post_training.told_steps import OnProgress, tell_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One training text, in the two parts that a loss may tell apart."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedRun:
    """How long and how fast to learn from documents."""

    n_steps: int
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    """Peak of AdamW's rate; it decays linearly to zero."""
    warmup_steps: int = 50
    n_parts: int = 4
    """Parts that a batch is split into by length, so that short texts are not padded to the longest; gradients add up
    to the batch's."""
    loss_on_prompt: bool = False
    """Pretraining learns the prompts too; tuning learns the completions only."""


def train_on_documents(
    network: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    run: SupervisedRun,
    *,
    seed: int,
    device: torch.device,
    work: Path,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Trains `network`, a transformers decoder or PEFT's model around one, in place on `documents`, in the order given.

    A document is a row of a batch.

    Checkpoints go to `work`, and a run that was cut off goes on from the last one. `on_progress` is told steps just
    done, and steps in all. Raises TaskError when there are fewer documents than the run consumes.
    """
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    n_wanted = run.n_steps * run.batch_size
    if len(documents) < n_wanted:
        raise TaskError(f"{len(documents)} documents for a run of {n_wanted}: make more, or take fewer steps")
    batches = [documents[start : start + run.batch_size] for start in range(0, n_wanted, run.batch_size)]
    ordered = [
        document
        for batch in batches
        for document in sorted(batch, key=lambda document: len(document.prompt) + len(document.completion))
    ]
    prompts, completions = (
        tokenizer([getattr(document, part) for document in ordered], add_special_tokens=False).input_ids
        for part in ("prompt", "completion")
    )
    rows = Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)],
            "completion_mask": [
                [int(run.loss_on_prompt)] * len(prompt) + [1] * len(completion)
                for prompt, completion in zip(prompts, completions, strict=True)
            ],
        }
    )
    trainer = SFTTrainer(
        # A stub cannot tell that it is one of the two.
        model=network,  # pyright: ignore[reportArgumentType]
        processing_class=tokenizer,
        train_dataset=rows,
        args=SFTConfig(
            output_dir=str(work),
            max_steps=run.n_steps,
            per_device_train_batch_size=run.batch_size // run.n_parts,
            gradient_accumulation_steps=run.n_parts,
            train_sampling_strategy="sequential",
            learning_rate=run.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=run.warmup_steps,
            weight_decay=0.01,
            completion_only_loss=True,
            max_length=None,
            activation_checkpointing=False,
            bf16=next(network.parameters()).dtype == torch.bfloat16,
            use_cpu=device.type == "cpu",
            seed=seed % 2**32,
            data_seed=seed % 2**32,
            save_steps=200,
            save_total_limit=1,
            logging_steps=50,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
    )
    tell_steps(trainer, on_progress)
    with scored_positions():
        trainer.train(resume_from_checkpoint=last_checkpoint(work))


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint that a trainer left in `work`, as trainers take it."""
    # The state is written last; a checkpoint without it was cut off.
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if whole else None
