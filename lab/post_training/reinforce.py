"""Reinforcement learning from verifiable rewards (GRPO) by TRL's trainer: the other door to trl."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lab.post_training.supervised import OnProgress, last_checkpoint, scored_positions, tell_steps
from lab.tasks.problem import Problem

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
    by `reward` alone.

    Checkpoints go to `work`, and a run that was cut off goes on from the last one. `on_progress` is told steps just
    done, and steps in all.
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
            output_dir=str(work),
            max_steps=run.n_steps,
            per_device_train_batch_size=run.n_prompts * run.n_rollouts,
            num_generations=run.n_rollouts,
            steps_per_generation=1,
            max_completion_length=run.max_new_tokens,
            temperature=run.temperature,
            learning_rate=run.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=run.warmup_steps,
            beta=0.0,
            shuffle_dataset=False,
            activation_checkpointing=False,
            bf16=next(network.parameters()).dtype == torch.bfloat16,
            use_cpu=device.type == "cpu",
            seed=seed % 2**32,
            data_seed=seed % 2**32,
            save_steps=20,
            save_total_limit=1,
            logging_steps=5,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
    )
    tell_steps(trainer, on_progress)
    with scored_positions():
        trainer.train(resume_from_checkpoint=last_checkpoint(work))
