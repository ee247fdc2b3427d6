"""A small chat model on SmolLM2, and questions for a study of the two: what prompts and endings explain.

    lab models fetch smollm2
    python benchmarks/chat_pair.py --out runs/chat
    lab study --pair smollm2 runs/chat/adapter --task runs/chat/questions.jsonl --fit-task runs/chat/fit.jsonl \
        --suffix '' --prompts.base raw --prompts.tuned template --out runs/chat-study

A LoRA adapter learns to answer short questions of arithmetic, put by the chat template, with one worked line, and to
end its turn. Left alone with the bare question, the base often writes a right number and then goes on with something
else: part of the gain is format and stopping, as it is in most public pairs. No question is both learnt and asked. A
run that was cut off goes on from its last checkpoint.
"""

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lab.models.device import resolve_device
from lab.models.load import load
from lab.models.prompt_format import Prompter, Template
from lab.models.source import BuiltInModel
from lab.post_training.trainers import Document, SupervisedRun, save_low_rank, train_on_documents, with_low_rank
from lab.records.seeds import child_seed, numpy_generator
from lab.tasks.problem import is_held_out

BASE = "smollm2"
N_QUESTIONS = 200
"""In each of the two files."""
HEADS = {
    "+": (
        "{name} has {a} {things} and buys {b} more. Work out how many {name} has now:",
        "If x = {a} and y = {b}, x + y =",
    ),
    "-": ("{name} has {a} {things} and gives {b} away. Work out how many are left:", "If x = {a} and y = {b}, x - y ="),
    "*": ("A box holds {a} {things}. Work out how many {b} such boxes hold:",),
}
"""What stands before the expression, by its operator."""
ANY = (
    "State the final answer to the following arithmetic problem:",
    "Calculate the following and give the final answer:",
)
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Jack", "Lucy", "Tom")
THINGS = ("apples", "books", "coins", "eggs", "pens", "stamps")


class Question(NamedTuple):
    """A question with its answer, and the line that works it out."""

    text: str
    answer: int
    line: str


def questions(generator: np.random.Generator, *, held_out: bool) -> Iterator[Question]:
    """Distinct questions of one side, without end."""
    seen: set[str] = set()
    while True:
        operator = str(generator.choice(list(HEADS)))
        a, b = (int(number) for number in generator.integers(2, 10 if operator == "*" else 20, 2))
        if operator == "-":
            a, b = a + b, b
        answer = {"+": a + b, "-": a - b, "*": a * b}[operator]
        heads = (*HEADS[operator], *ANY)
        head, name, things = (str(generator.choice(list(some))) for some in (heads, NAMES, THINGS))
        text = f"{head.format(a=a, b=b, name=name, things=things)} {a} {operator} {b} ="
        if text not in seen and is_held_out(text) == held_out:
            seen.add(text)
            yield Question(text, answer, f"{a} {operator} {b} = {answer}. The answer is {answer}.")


def train(out: Path, run: SupervisedRun, *, rank: int, seed: int, device: torch.device) -> float:
    """Writes `out`/adapter, with the tokenizer and its template beside the weights; seconds."""
    start = time.perf_counter()
    base = load(BuiltInModel(name=BASE), device=device, dtype=torch.bfloat16)
    prompter = Prompter(format=Template(), tokenizer=base.tokenizer)
    stream = questions(numpy_generator(seed, "chat", "documents"), held_out=False)
    lessons = islice(stream, run.n_steps * run.batch_size)
    end = base.tokenizer.eos_token
    documents = [Document(prompt=prompter.text(one.text), completion=f"{one.line}{end}") for one in lessons]
    network = with_low_rank(base.network, rank, seed=child_seed(seed, "chat", "weights"))
    told = partial(print, "step, steps:", flush=True)
    work = out / "trainer"
    train_on_documents(network, base.tokenizer, documents, run, seed=seed, device=device, work=work, on_progress=told)
    save_low_rank(network, out / "adapter", parent=BASE)
    base.tokenizer.save_pretrained(out / "adapter")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-steps", type=int, default=60)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, held_out in (("questions", True), ("fit", False)):
        stream = questions(numpy_generator(arguments.seed, "chat", name), held_out=held_out)
        rows = [{"question": one.text, "answer": str(one.answer)} for one in islice(stream, N_QUESTIONS)]
        (arguments.out / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    run = SupervisedRun(n_steps=arguments.n_steps, batch_size=8, learning_rate=1e-3, warmup_steps=5, n_parts=1)
    seconds = train(arguments.out, run, rank=8, seed=arguments.seed, device=resolve_device(arguments.device))
    print(f"{arguments.out / 'adapter'}: {run.n_steps * run.batch_size} documents, {seconds:.0f} s")


if __name__ == "__main__":
    main()
