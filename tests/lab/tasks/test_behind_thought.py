"""What of a completion may hold its answer: turns, thinking, and where it goes on with problems of its own."""

import pytest

from lab.tasks.math_answer import final_answer
from lab.tasks.stated_answer import before_run_on, behind_thought, first_answer

BLOCKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysis", "assistantfinal"),
    ("analysis\n", "assistantfinal"),
    ("commentary", "assistantfinal"),
    ("<|think|>", "<|/think|>"),
    ("<think time=2>", "</think >"),
    ("<scratchpad>", "</scratchpad>"),
]


@pytest.mark.parametrize(("opens", "closes"), BLOCKS)
def test_an_answer_is_read_behind_thinking_of_every_family(opens, closes):
    draft = r"We try \boxed{1} first"
    assert final_answer(rf"{opens}{draft}, no.{closes}It is \boxed{{2}}.") == "2"
    assert final_answer(rf"{draft}, no.{closes}It is \boxed{{2}}.") == "2"  # Opened by the template.
    assert behind_thought(opens + draft) is None
    assert final_answer(opens + draft) is None
    assert final_answer(f"{opens}{draft}{closes}I cannot tell") is None


def test_a_prompt_may_have_opened_a_thought_that_never_closes():
    assert final_answer(r"We try \boxed{1} first") == "1"
    assert final_answer(r"<think>We try \boxed{1} first") is None
    assert final_answer(r"<think>We try \boxed{1} first</think>It is 2.") == "2"


@pytest.mark.parametrize("text", ["analysis of 3 cases gives 7", "analysis: 7", "The analysis\n\n7", "analysis\n7"])
def test_a_word_is_no_channel(text):
    assert final_answer(text) == "7"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "It is 5.<|im_end|>\n<|im_start|>user\n7?<|im_end|>\n<|im_start|>assistant\n<think>a</think>8",
            "5",
        ),
        ("It is 5.<|endoftext|>Human: and <think>?</think> 9", "5"),
        ("It is 5.</s>[INST] And 7? [/INST] It is 8.", "5"),
        ("It is 5.<end_of_turn>\n<start_of_turn>user\n8?", "5"),
        ("<|im_start|>user\nWhat is 2+3?<|im_end|>\n<|im_start|>assistant\nIt is 5.<|im_end|>", "5"),
        ("system\nYou are Qwen.\nuser\nWhat is 2+3?\n\nassistant\nIt is 5.\nuser\nAnd 7?", "5"),
        ("[INST] What is 2+3? [/INST] It is 5.", "5"),
    ],
)
def test_only_the_first_turn_answers(text, answer):
    assert final_answer(text) == answer


HEADS = [
    "Question", "Problem 2 (sums)", "**Problem 2 (AMC).**", "### Next Question", "\\section*{Problem 2}", "<question>",
    "1. Question:", "Now, solve the following problem:", "Here's another one:", "[/INST]", "<s>", "## Problem 2: sums",
]  # fmt: skip
RUN_ONS = [
    "Question: What is 3+4?\nAnswer: 7",
    "Question 2: What is 3+4?\nAnswer: 7",
    "**Question:** What is 3+4?\n**Answer:** 7",
    "Problem: Find 3+4.\n\\boxed{7}",
    "## Problem 2\nFind 3+4.\n\\boxed{7}",
    "Problem 12. Find 3+4. \\boxed{7}",
    "Q: 3+4?\nA: 7",
    "Exercise 2.\nFind 3+4. The answer is 7.",
    "Human: What is 3+4?\n\nAssistant: 7",
    "User: What is 3+4?",
    "### Instruction:\nFind 3+4.\n\n### Response:\n7",
    "### Question\nFind 3+4.\n#### 7",
    "Example 2: Find 3+4. The answer is 7.",
    "Problem 2\nFind 3+4. \\boxed{7}",
    "**Question**\n\nFind 3+4.\n\n7",
    "[Question]\nFind 3+4.\n[Answer]\n7",
    "Solve the following problem.\n3+4=7",
    "You are an AI assistant. Find 3+4.\n7",
    "题目：3+4等于多少？答案：7",
    "<|im_start|>user\n3+4?<|im_end|>",
]


@pytest.mark.parametrize("more", RUN_ONS)
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("2 and 3 make \\boxed{5}.\n", "5"),
        ("2+3=5\n#### 5\n", "5"),
        ("The answer is 5.\n", "5"),
        (" 5\n", "5"),
        ("Even\n\n", "Even"),
        ("Answer: 5\n\n", "5"),
    ],
)
def test_a_completion_that_goes_on_with_a_problem_of_its_own_is_cut_there(said, answer, more):
    assert final_answer(said + more) == answer


@pytest.mark.parametrize("head", HEADS)
def test_behind_a_stated_answer_and_an_empty_line_the_head_of_a_problem_is_that_of_another(head):
    assert final_answer(f"So the answer is $\\boxed{{5}}$.\n\n{head}\nWhat is 3+4?\n\nIt is \\boxed{{7}}.") == "5"


@pytest.mark.parametrize(
    "head", ["### Problem Analysis", "**Verification**", "Problem solved?", "Here's another way:", "## Part (b)"]
)
def test_other_heads_go_on_with_the_work(head):
    assert final_answer(f"So the answer is $\\boxed{{5}}$.\n\n{head}\nWhat is 3+4?\n\nIt is \\boxed{{7}}.") == "7"


def test_thinking_about_another_problem_hides_no_answer_before_it():
    assert final_answer("It is \\boxed{5}\n\nQuestion: 3+4?\n<think>q</think>\\boxed{7}") == "5"
    assert final_answer("The answer is 5.\n\nQuestion: 3+4?\n<think>q") == "5"


PLAIN_RUN_ONS = [more for more in RUN_ONS if r"\boxed" not in more and "answer is" not in more]


@pytest.mark.parametrize("more", [*PLAIN_RUN_ONS, "\n\n".join(RUN_ONS)])
def test_a_bare_number_is_the_answer_unless_just_one_part_behind_it_ends_plainly(more):
    assert final_answer(f"2 apples and 3 make 5 apples.\n\n{more}") == "5"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Problem: Tom has 2 pens and buys 3.\n\nSo he has 2+3 = 5.", "5"),
        ("Question: What is 2+3?\n\nIt is 5.", "5"),
        ("\n\nQuestion: What is 2+3?\nAnswer: 5", "5"),
        ("**Problem:** Tom has 2 pens.\n\n**Question:** How many if he buys 3?\n\n2+3 = 5", "5"),
        ("Let me restate it.\n\nQuestion: What is 2+3?\n\nIt is 5.", "5"),
        ("Solution:\n\nProblem: find 2+3.\n\nIt is 5.", "5"),
        ("Sure\n\n### Problem\nFind 2+3.\n### Solution\nIt is 5.", "5"),
        ("There are 2 pens.\nQuestion: how many with 3 more?\n2+3 = 5", "5"),
        ("### Step 1: The problem\nFind 2+3.\n### Step 2: The problem is solved\nIt is 5.", "5"),
        ("#### 1\n2 and 3 are added.\n\n#### 2\nSo \\boxed{5}", "5"),
        ("**Given:** 2 pens.\n\n**Question:** How many with 3?\n\n**Solution:** 2+3. The answer is 5.", "5"),
        ("**AIME 2024**\n\nProblem 3\n\nSo \\boxed{5}.", "5"),
        ("There are 2.\n\nQuestion 1: with 3?\n\nQuestion 2: How many?\nIt is \\boxed{5}", "5"),
    ],
)
def test_a_problem_that_is_stated_once_more_before_its_answer_is_no_new_one(text, answer):
    assert final_answer(text) == answer


def test_of_worked_examples_that_end_in_hashes_the_first_answers():
    text = "2+3=5\n#### 5\n\nAnn has 3 pens and buys 4.\n3+4=7\n#### 7\n"
    assert final_answer(text) == "5"
    assert before_run_on(text) == "2+3=5\n#### 5"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (r"<think>so \boxed{5}, or 7</think> \boxed{7}", r"<think>so \boxed{5}"),
        (r"\boxed{3} and \boxed{5}, then \boxed{7}", r"\boxed{3} and \boxed{5}"),
        ("The answer is 5. Then I note 7.", "The answer is 5"),
        ("The answer is not obvious. The answer is $5$ though.", "The answer is not obvious. The answer is $5$ though"),
        ("#### Step 1\n2+3\n#### 5\nand 7", "#### Step 1\n2+3\n#### 5"),
        ("<answer>5</answer> or 7", "<answer>5</answer>"),
        ("5\n\nQuestion: What is 3+4?\nThe answer is 7.", "5"),
        (" 24, which is the next one. The answer is 9.", " 24"),
        (" 24.\n\nThis is a classic.", " 24"),
        (" 24. 24 x 4 = 96.", " 24"),
        ("\n**-1,024 pens**\nso", "\n**-1,024 pens**"),
        ("$5/8$. Then", "$5/8$"),
        ("19 Jack; Jack has", "19 Jack"),
        ("1. First, 3 + 4 = 7", None),
        ("3 pens and 4 pens are 7.", None),
        ("2, 4, 6", None),
        ("7 * 4 = 28. So", None),
        ("2x + 3.", None),
        ("We have 5 pens.", None),
        ("", None),
    ],
)
def test_the_first_answer_is_where_one_is_plainly_stated(text, part):
    end = first_answer(text)
    assert (None if end is None else text[:end]) == part


@pytest.mark.parametrize(
    "part",
    [
        "Question: ",
        "\nQuestion:",
        "5\nQ:",
        "\n#### 5",
        "<|im_end|>",
        "user\n",
        "\n\n## Problem\n",
        "\n\nQuestion....",
        "\n",
        ".",
        "\n\n#",
    ],
)
def test_a_long_hostile_text_is_cut_in_linear_time(part):
    text = part * 20_000
    final_answer(text), before_run_on(text), first_answer(text)
