"""Studies in which completions of known verdicts, as models of many families write them, stand for those of models."""

import html
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase

from elicitation.pages.study.asking import worded
from elicitation.study import config
from elicitation.study.run import run
from lab.models.engine import ScriptedEngine
from lab.models.load import Model, assemble
from lab.models.pair import PromptChoice
from lab.sampling.trace import OUTCOMES, Decoding
from lab.scoring.evidence import ArmKey, Role
from tests.kinds import one_always
from tests.replay import (
    ANSWER_LINE,
    ASTRAY,
    BOXING,
    BRACKETED,
    CHANNELS,
    HARMONY,
    INST,
    NASTY,
    OPENED,
    PROSE,
    QWEN3,
    R1,
    RUN_ON,
    UNTHINKING,
    Script,
    fresh_tokenizer,
    rate,
    replaying,
    shrunk,
    small_study,
    stand_in,
    stand_in_model,
    sums,
    write_sums,
)

PROBLEMS = sums(range(10, 40))
PLAIN, CHATML = "<|endoftext|>", "<|im_end|>"


class Pair(NamedTuple):
    """Two published models, and what the tuned one writes."""

    base: str
    tuned: str
    writes: tuple[Script, ...]
    ends: tuple[str, str] = (PLAIN, CHATML)
    """With which token either ends."""
    told: tuple[tuple[str, bool], ...] = ()
    """What the template of the tuned model is told."""


QWEN3_BASE, THINKER = "Qwen3-8B-Base", "Qwen3-30B-A3B-Thinking-2507"
PAIRS = {
    "R1": Pair("Qwen2.5-Math-7B", "DeepSeek-R1-Distill-Qwen-7B", R1, (PLAIN, "<｜end▁of▁sentence｜>")),
    "Math-Instruct": Pair("Qwen2.5-Math-7B", "Qwen2.5-Math-7B-Instruct", BOXING),
    "Instruct": Pair("Qwen2.5-7B", "Qwen2.5-7B-Instruct", PROSE),
    "Qwen3": Pair(QWEN3_BASE, "Qwen3-8B", QWEN3),
    "Qwen3 told not to think": Pair(QWEN3_BASE, "Qwen3-8B", UNTHINKING, told=(("enable_thinking", False),)),
    # In the shape of its base: here only how it writes matters.
    "opened thought": Pair(QWEN3_BASE, THINKER, OPENED),
    "OLMo-2": Pair("OLMo-2-0425-1B", "OLMo-2-0425-1B-Instruct", PROSE, (PLAIN, PLAIN)),
    "Olmo-3": Pair("Olmo-3-7B", "Olmo-3-7B-Instruct", BOXING),
    "Olmo-3-RLZero": Pair("Olmo-3-7B", "Olmo-3-7B-RLZero-Math", ANSWER_LINE, (PLAIN, PLAIN)),
    "SmolLM2": Pair("SmolLM2-135M", "SmolLM2-135M-Instruct", PROSE),
}


def read(out: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(out / f"{name}.parquet")


def templated(tokenizer: PreTrainedTokenizerBase, **told: bool) -> dict[str, list[int]]:
    """What the template makes of every problem: by transformers, and not by what is tested."""
    chats = {name: [{"role": "user", "content": prompt}] for name, (prompt, _) in PROBLEMS.items()}
    said = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, **told}
    return {name: tokenizer.apply_chat_template(chat, **said) for name, chat in chats.items()}


def check(
    models: Mapping[str, Model],
    writes: Mapping[str, Sequence[Script]],
    ends: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: Mapping[str, bool],
    **changed: object,
) -> None:
    """Runs a study of models that replay what they write, and holds all of its tables to what is known."""
    of_base = {name: list(models["base"].tokenizer(prompt).input_ids) for name, (prompt, _) in PROBLEMS.items()}
    prompts = {"base": of_base, "tuned": templated(models["tuned"].tokenizer, **told)}
    replayed = {
        side: replaying(model, writes[side], end, PROBLEMS, prompts[side])
        for (side, model), end in zip(models.items(), ends, strict=True)
    }
    monkeypatch.setattr(config, "load", lambda source, **_: replayed[source.name.removeprefix("replayed/")])
    arguments = tuple(f"{argument}={str(value).lower()}" for argument, value in told.items())
    choice, n_samples = PromptChoice(n_problems=2, arguments=arguments), max(map(len, writes.values()))
    out = tmp_path / "runs"
    run(small_study(write_sums(tmp_path, PROBLEMS), prompts=choice, n_curve_samples=n_samples, **changed), out)

    held_out, verdicts = set(read(out, "problems/held_out")["id"]), read(out, "tables/verdicts")
    for (side, scripts), end in zip(writes.items(), ends, strict=True):
        engine = replayed[side].engine
        assert held_out <= engine.asked, f"the {side} model was not asked as its makers do"
        of_side = verdicts.filter(pl.col("arm") == side)
        joined = read(out, f"traces/{side}/traces").join(of_side, on=("problem_id", "sample_index"))
        assert joined.height == len(held_out) * n_samples
        for row in joined.iter_rows(named=True):
            script = scripts[row["sample_index"] % len(scripts)]
            assert (row["stop"], row["outcome"], row["read_by"]) == (script.stop, script.outcome, script.read_by), row
            ended = row["tokens"][-1] == models[side].tokenizer.convert_tokens_to_ids(end)
            assert ended == (script.stop == "eos")
            assert end not in row["text"]
    formats = read(out, "formats/formats").filter("own")
    own = {row["model"]: row["format"] for row in formats.iter_rows(named=True)}
    assert own == {"base": "raw", "tuned": ", ".join(["template", *arguments])}
    accuracy = read(out, "tables/ladder").filter(pl.col("measure") == "strict").select("arm", "accuracy")
    base, tuned, astray = rate(writes["base"]), rate(writes["tuned"]), rate(ASTRAY)
    assert {("base", base), ("tuned", tuned), ("read-first", 1.0)} <= set(accuracy.iter_rows())
    for row in read(out, "tables/outcomes").filter(pl.col("arm").is_in(("base", "tuned"))).iter_rows(named=True):
        outcomes = [script.outcome for script in writes[row["arm"]]]
        assert {name: row[name.replace(" ", "_")] for name in OUTCOMES} == {
            name: pytest.approx(outcomes.count(name) / len(outcomes)) for name in OUTCOMES
        }
    gains = dict(read(out, "comparisons/comparisons").select("comparison", "gain").iter_rows())
    own_cut = read(out, "comparisons/comparisons").row(0, named=True)
    for side, scripts in writes.items():
        assert own_cut[f"{side}_cut"] == pytest.approx(sum(one.outcome == "cut" for one in scripts) / len(scripts))
    compared = "each as it is asked", "both as the base", "both as the tuned model"
    assert [gains[name] for name in compared] == pytest.approx([tuned - base, astray - base, tuned - astray])
    page = html.unescape(raw := (out / "report.html").read_text())
    said = re.sub("<[^>]*>", "", raw)
    assert f"{models['base'].name} is asked by raw text, {models['tuned'].name} by {worded(own['tuned'])}" in said
    marks = [mark for mark in models["tuned"].tokenizer.get_added_vocab() if mark in page and "<" in mark]
    assert marks, "the page shows how the tuned model is asked"
    assert not [mark for mark in (*marks, "<script>alert(") if mark in raw]


@pytest.mark.real_data
@pytest.mark.parametrize("name", one_always(PAIRS))
def test_a_study_of_a_published_pair_asks_ends_and_judges_as_its_models_do(name, tmp_path, monkeypatch):
    base, tuned, writes, ends, told = PAIRS[name]
    made = [
        assemble(
            shrunk(base if model == THINKER else model, seed=seed), fresh_tokenizer(model), name=model, digest=model
        )
        for seed, model in enumerate((base, tuned))
    ]
    models = dict(zip(("base", "tuned"), made, strict=True))
    check(models, {"base": RUN_ON, "tuned": writes}, ends, tmp_path, monkeypatch, dict(told))


CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|endoftext|>")
BRACKETS = ("[INST]", "[/INST]", "[THINK]", "[/THINK]", "<s>", "</s>")
STAND_INS = {
    "channels": (CHANNEL_MARKS, HARMONY, CHANNELS, ("<|endoftext|>", "<|return|>"), None),
    "brackets": (BRACKETS, INST, BRACKETED, ("</s>", "</s>"), "<s>"),
    "nasty": ((*BRACKETS, "<|im_start|>", "<|im_end|>", "<think>", "</think>"), INST, NASTY, ("</s>", "</s>"), "<s>"),
}


@pytest.mark.parametrize("name", one_always(STAND_INS))
def test_a_study_of_a_family_whose_tokenizer_is_not_here_reads_its_thinking(name, tmp_path, monkeypatch):
    marks, template, writes, ends, bos = STAND_INS[name]
    tokenizers = [
        stand_in(*marks, bos=bos, eos=end, template=how) for end, how in zip(ends, (None, template), strict=True)
    ]
    models = {
        side: stand_in_model(tokenizer, name=f"{name}-{side}", seed=seed)
        for seed, (side, tokenizer) in enumerate(zip(("base", "tuned"), tokenizers, strict=True))
    }
    decoding = Decoding(max_new_tokens=200)
    check(models, {"base": RUN_ON, "tuned": writes}, ends, tmp_path, monkeypatch, {}, decoding=decoding)


TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"
N_TOKENS = 160


def stored(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (TRACES / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="no public traces beside the checkout")
def test_what_real_models_wrote_is_judged_by_a_study_as_by_its_graders_and_thoughts_are_cut(tmp_path, monkeypatch):
    base, tuned = (fresh_tokenizer(name) for name in PAIRS["SmolLM2"][:2])
    known: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in stored("real_completions.jsonl"):
        if "question" in row and len(base(row["completion"]).input_ids) < N_TOKENS:
            known[row["question"]].append(row)
    # As `id` of a row becomes the id of its problem.
    named = {f"sums:{number}": rows for number, rows in enumerate(known.values())}
    rows = [
        {"id": str(number), "question": question, "answer": rows[0]["gold"]}
        for number, (question, rows) in enumerate(known.items())
    ]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    thoughts = [row["completion"] for row in stored("annotated_traces.jsonl") if "deepseek" in row["model"]]
    texts = {
        "base": {name: [thoughts[number % len(thoughts)]] for number, name in enumerate(named)},
        "tuned": {name: [row["completion"] for row in rows] for name, rows in named.items()},
    }
    models = {}
    for side, tokenizer in (("base", base), ("tuned", tuned)):
        made = assemble(shrunk("SmolLM2-135M", seed=len(models)), tokenizer, name=side, digest=side)
        end = tokenizer.eos_token_id
        models[f"replayed/{side}"] = replace(
            made, engine=ScriptedEngine(texts=texts[side], tokenizer=tokenizer, end=end)
        )
    monkeypatch.setattr(config, "load", lambda source, **_: models[source.name])
    decoding, out = Decoding(max_new_tokens=N_TOKENS), tmp_path / "runs"
    arms = (ArmKey(Role.SELF_CONSISTENCY),)
    run(small_study(tmp_path / "sums.jsonl", n_problems=16, decoding=decoding, arms=arms, n_fit_samples=1), out)
    verdicts = read(out, "tables/verdicts")
    of_tuned = verdicts.filter(pl.col("arm") == "tuned")
    assert of_tuned.height == 16 * 4
    for name, sample, right in of_tuned.select("problem_id", "sample_index", "answer_correct").iter_rows():
        assert right == named[name][sample % len(named[name])]["correct"], (name, sample)
    assert 0 < of_tuned["answer_correct"].mean() < 1
    of_base = verdicts.filter(pl.col("arm") == "base").select("outcome", "read_by").unique().rows()
    assert of_base == [("cut", None)]
    compared = read(out, "comparisons/comparisons").row(0, named=True)
    assert (compared["base_cut"], compared["tuned_cut"]) == (1, 0)
