"""Training of networks in place, supervised or by rewards that can be verified, by TRL's trainers: the door to trl."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lab.records.errors import TaskError
from lab.tasks.problem import Problem

# Slow to import, and configurations of runs are read where nothing is trained.
if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

OnProgress = Callable[[int, int], None]
"""Told steps just done, and steps in all."""


def with_low_rank(network: PreTrainedModel, rank: int, *, seed: int) -> "PeftModel":
    """`network`, frozen, with a fresh adapter of `rank` on every linear map of its blocks, which starts as no change.

    The adapter is kept in float32 whatever the network's dtype; its scale is 2.
    """
    from peft import LoraConfig, get_peft_model

    # "all-linear" is neither the embedding nor the unembedding.
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def save_low_rank(network: "PeftModel", directory: Path, *, parent: str) -> None:
    """Writes the adapter in bf16 and its configuration, which names `parent` as the model that it changes."""
    for config in network.peft_config.values():
        config.base_model_name_or_path = parent
        config.inference_mode = True
    # Embeddings are not adapted; to find that out, peft would ask the hub for the parent.
    network.bfloat16().save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)
    # peft writes a card of blanks.
    (directory / "README.md").unlink(missing_ok=True)


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
    """Trains `network`, a transformers decoder or PEFT's model around one, in place on `documents`, in the order given,
    each a row of a batch.

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
    pairs, learnt = list(zip(prompts, completions, strict=True)), int(run.loss_on_prompt)
    rows = Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in pairs],
            "completion_mask": [[learnt] * len(prompt) + [1] * len(completion) for prompt, completion in pairs],
        }
    )
    trainer = SFTTrainer(
        # A stub cannot tell that it is one of the two.
        model=network,  # pyright: ignore[reportArgumentType]
        processing_class=tokenizer,
        train_dataset=rows,
        args=SFTConfig(
            per_device_train_batch_size=run.batch_size // run.n_parts,
            gradient_accumulation_steps=run.n_parts,
            train_sampling_strategy="sequential",
            weight_decay=0.01,
            completion_only_loss=True,
            max_length=None,
            save_steps=max(1, min(200, run.n_steps // 4)),
            logging_steps=50,
            **_settings(network, run, work, seed, device),
        ),
    )
    _train(trainer, work, on_progress)


Reward = Callable[[Problem, str], float]
"""(problem, completion text) -> reward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoRun:
    """Group-relative policy optimisation (Shao et al. 2024), without a KL term, one update a batch of rollouts."""

    n_steps: int = 60
    """Steps of AdamW."""
    n_prompts: int = 32
    """Problems a step."""
    n_rollouts: int = 8
    """Rollouts of each problem: the group over which rewards are centred and scaled."""
    learning_rate: float = 2e-4
    """Peak of AdamW's rate; it decays linearly to zero."""
    warmup_steps: int = 5
    """Without them the first, noisiest steps of Adam undo part of what the parent can do."""
    max_new_tokens: int = 96
    """Longest rollout."""
    temperature: float = 1.0
    """Of the rollouts."""


def reinforce(
    network: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    reward: Reward,
    run: GrpoRun,
    *,
    seed: int,
    device: torch.device,
    work: Path,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Trains `network`, a transformers decoder or PEFT's model around one, in place on `problems`, in the order given,
    by `reward` alone. Otherwise as `train_on_documents`.
    """
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    by_id = {problem.id: problem for problem in problems}

    def score(completions: list[str], problem_id: list[str], **_: object) -> list[float | None]:
        return [reward(by_id[key], text) for key, text in zip(problem_id, completions, strict=True)]

    n_wanted = run.n_steps * run.n_prompts
    repeated = [problems[index % len(problems)] for index in range(n_wanted)]
    trainer = GRPOTrainer(
        # A stub cannot tell that it is one of the two.
        model=network,  # pyright: ignore[reportArgumentType]
        processing_class=tokenizer,
        reward_funcs=score,
        train_dataset=Dataset.from_list([{"prompt": problem.prompt, "problem_id": problem.id} for problem in repeated]),
        args=GRPOConfig(
            per_device_train_batch_size=run.n_prompts * run.n_rollouts,
            num_generations=run.n_rollouts,
            steps_per_generation=1,
            max_completion_length=run.max_new_tokens,
            temperature=run.temperature,
            beta=0.0,
            shuffle_dataset=False,
            save_steps=20,
            logging_steps=5,
            **_settings(network, run, work, seed, device),
        ),
    )
    _train(trainer, work, on_progress)


def _settings(
    network: nn.Module, run: SupervisedRun | GrpoRun, work: Path, seed: int, device: torch.device
) -> dict[str, Any]:
    """What either trainer is told."""
    return {
        "output_dir": str(work),
        "max_steps": run.n_steps,
        "learning_rate": run.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": run.warmup_steps,
        "activation_checkpointing": False,
        "bf16": next(network.parameters()).dtype == torch.bfloat16,
        "use_cpu": device.type == "cpu",
        "seed": seed % 2**32,
        "data_seed": seed % 2**32,
        "save_total_limit": 1,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _train(trainer: "Trainer", work: Path, on_progress: OnProgress) -> None:
    tell_steps(trainer, on_progress)
    with scored_positions():
        trainer.train(resume_from_checkpoint=last_checkpoint(work))


CHOICE = "_use_triton"
"""By this function `trl.trainer.utils` chooses (1.16; a private name, and without it nothing is changed)."""


@contextmanager
def scored_positions() -> Iterator[None]:
    """Inside, TRL's unembedding gets the positions that are scored, and not the prompts and the padding too.

    Without Triton it takes all of them, so that a compiler of other devices sees one shape; nothing is compiled here.
    The loss and its gradients stay the same but for rounding.
    """
    from trl.trainer import utils

    before = getattr(utils, CHOICE, None)
    if before is not None:
        setattr(utils, CHOICE, lambda _: True)
    try:
        yield
    finally:
        if before is not None:
            setattr(utils, CHOICE, before)


def tell_steps(trainer: "Trainer", on_progress: OnProgress) -> None:
    """Takes away the callbacks that print, and adds one that tells steps, and those before a run that goes on."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    class ToldSteps(TrainerCallback):
        """Tells the steps since the last time."""

        n_told = 0

        def on_step_end(
            self,
            args: "TrainingArguments",  # noqa: ARG002 (a trainer calls with all of these)
            state: "TrainerState",
            control: "TrainerControl",  # noqa: ARG002
            **kwargs: object,  # noqa: ARG002
        ) -> None:
            on_progress(state.global_step - self.n_told, state.max_steps)
            self.n_told = state.global_step

        on_train_begin = on_step_end

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(ToldSteps())


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint that a trainer left in `work`, as trainers take it."""
    # The state is written last; a checkpoint without it was cut off.
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if whole else None
