"""BENCHMARKS: public benchmarks by the names that people type for them.

Each is a data set of the hub, pinned to the revision that public evaluations name where one is known, and how its rows
are read. The columns are the data set's own; what is not named here is found by the rules of
`lab/tasks/question_rows.py`.
"""

from dataclasses import replace

from lab.tasks.question_rows import Reading
from lab.tasks.row_task import HubTask


def _reading(question: str, answer: str) -> Reading:
    return Reading(question_column=(question,), answer_column=(answer,))


_PROBLEM, _QUESTION = _reading("problem", "answer"), _reading("question", "answer")

_HUB = {
    "math500": HubTask(
        name="HuggingFaceH4/MATH-500", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", reading=_PROBLEM
    ),
    "gsm8k": HubTask(
        name="openai/gsm8k", revision="740312add88f781978c0658806c59bc2815b9866", config="main", reading=_QUESTION
    ),
    "aime24": HubTask(
        name="HuggingFaceH4/aime_2024",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        split="train",
        reading=_PROBLEM,
    ),
    "aime25": HubTask(name="math-ai/aime25", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b", reading=_PROBLEM),
    "amc23": HubTask(name="math-ai/amc23", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057", reading=_QUESTION),
    "minerva": HubTask(name="math-ai/minervamath", reading=_QUESTION),
    "olympiadbench": HubTask(
        name="Hothan/OlympiadBench",
        revision="91184b52131e7fc9455fef848035173aea8cc01a",
        config="OE_TO_maths_en_COMP",
        split="train",
        reading=_reading("question", "final_answer"),
    ),
    "gpqa": HubTask(
        name="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        reading=_reading("Question", "Correct Answer"),
    ),
    "mmlu-pro": HubTask(
        name="TIGER-Lab/MMLU-Pro", revision="b189ec765aa7ed75c8acfea42df31fdae71f97be", reading=_QUESTION
    ),
    "humaneval": HubTask(
        name="openai/openai_humaneval",
        revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        config="openai_humaneval",
        reading=_reading("prompt", "test"),
    ),
    "mbpp": HubTask(
        name="google-research-datasets/mbpp",
        revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        config="full",
        reading=_reading("text", "test_list"),
    ),
}
BENCHMARKS: dict[str, HubTask] = {short: replace(task, short=short) for short, task in _HUB.items()}
"""Name as typed -> the data set."""
