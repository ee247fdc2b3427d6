"""Studies of real tokenizers, in which completions of known verdicts stand for those of the models."""

from dataclasses import replace

import polars as pl
import pytest

from elicitation.study import config
from elicitation.study.run import run
from lab.models.load import Model, assemble
from lab.models.prompt_choice import PromptChoice
from tests.kinds import one_always
from tests.replay import (
    ANSWER_LINE,
    ASTRAY,
    BOXING,
    OPENED,
    PROSE,
    QWEN3,
    R1,
    RUN_ON,
    UNTHINKING,
    Pair,
    Witness,
    fresh_tokenizer,
    rate,
    scripted,
    shrunk,
    small_study,
    sums,
    write_sums,
)

PROBLEMS = sums(range(10, 40))
QWEN, OLMO, CHATML = "<|endoftext|>", "<|endoftext|>", "<|im_end|>"
PAIRS = {
    "R1": Pair("Qwen2.5-Math-7B", "DeepSeek-R1-Distill-Qwen-7B", R1, (QWEN, "<｜end▁of▁sentence｜>")),
    "Math-Instruct": Pair("Qwen2.5-Math-7B", "Qwen2.5-Math-7B-Instruct", BOXING, (QWEN, CHATML)),
    "Instruct": Pair("Qwen2.5-7B", "Qwen2.5-7B-Instruct", PROSE, (QWEN, CHATML)),
    "Qwen3": Pair("Qwen3-8B-Base", "Qwen3-8B", QWEN3, (QWEN, CHATML)),
    "Qwen3 told not to think": Pair(
        "Qwen3-8B-Base",
        "Qwen3-8B",
        UNTHINKING,
        (QWEN, CHATML),
        "template, enable_thinking=false",
        (("enable_thinking", False),),
    ),
    "opened thought": Pair(
        "Qwen3-8B-Base", "Qwen3-30B-A3B-Thinking-2507", OPENED, (QWEN, CHATML), shape="Qwen3-8B-Base"
    ),
    "OLMo-2": Pair("OLMo-2-0425-1B", "OLMo-2-0425-1B-Instruct", PROSE, (OLMO, OLMO)),
    "Olmo-3": Pair("Olmo-3-7B", "Olmo-3-7B-Instruct", BOXING, (OLMO, CHATML)),
    "Olmo-3-RLZero": Pair("Olmo-3-7B", "Olmo-3-7B-RLZero-Math", ANSWER_LINE, (OLMO, OLMO)),
    "SmolLM2": Pair("SmolLM2-135M", "SmolLM2-135M-Instruct", PROSE, ("<|endoftext|>", CHATML)),
}


def replaying(model: Model, scripts, end, prompts) -> Model:
    """The model with its scripts for every problem."""
    engines = (
        scripted(model, end, {name: [script.of(answer) for script in some] for name, (_, answer) in PROBLEMS.items()})
        for some in (scripts, ASTRAY)
    )
    return replace(model, engine=Witness(**dict(zip(("own", "astray"), engines, strict=True)), prompts=prompts))


def read(out, name):
    return pl.read_parquet(out / f"{name}.parquet")


@pytest.mark.real_data
@pytest.mark.parametrize("name", one_always(PAIRS))
def test_a_study_of_a_published_pair_asks_ends_and_judges_as_its_models_do(name, tmp_path, monkeypatch):
    pair = PAIRS[name]
    names = {"base": pair.base, "tuned": pair.tuned}
    tokenizers = {side: fresh_tokenizer(model) for side, model in names.items()}
    # By transformers, and not by what is tested.
    prompts = {
        "base": {problem: tokenizers["base"](question).input_ids for problem, (question, _) in PROBLEMS.items()},
        "tuned": {
            problem: tokenizers["tuned"].apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **dict(pair.told),
            )
            for problem, (question, _) in PROBLEMS.items()
        },
    }
    writes = {"base": RUN_ON, "tuned": pair.writes}
    models = {}
    for (side, model), end in zip(names.items(), pair.ends, strict=True):
        network = shrunk(pair.shape or model, seed=len(models))
        made = assemble(network, tokenizers[side], name=model, digest=side)
        models[f"replayed/{side}"] = replaying(made, writes[side], end, prompts[side])
    monkeypatch.setattr(config, "load", lambda source, **_: models[source.name])
    told = tuple(f"{argument}={str(value).lower()}" for argument, value in pair.told)
    study = small_study(write_sums(tmp_path, PROBLEMS), prompts=PromptChoice(n_problems=2, arguments=told))
    out = tmp_path / "runs"
    run(study, out)

    formats = read(out, "formats/formats")
    own = {row["model"]: row["format"] for row in formats.filter("own").iter_rows(named=True)}
    assert own == {"base": "raw", "tuned": pair.tuned_format}
    verdicts = read(out, "tables/verdicts")
    held_out = set(read(out, "problems/held_out")["id"])
    for (side, scripts), end in zip(writes.items(), pair.ends, strict=True):
        model = models[f"replayed/{side}"]
        asked = {problem: ids for problem, ids in model.engine.seen if list(ids) == list(prompts[side][problem])}
        assert held_out <= set(asked), f"the {side} model was not asked as its makers do"
        joined = read(out, f"traces/{side}/traces").join(
            verdicts.filter(pl.col("arm") == side), on=("problem_id", "sample_index")
        )
        assert joined.height == len(held_out) * len(scripts)
        for row in joined.iter_rows(named=True):
            script = scripts[row["sample_index"]]
            assert (row["stop"], row["outcome"], row["read_by"]) == (script.stop, script.outcome, script.read_by), row
            if script.stop == "eos":
                assert row["tokens"][-1] == tokenizers[side].convert_tokens_to_ids(end)
            assert end not in row["text"]
    ladder = read(out, "tables/ladder").filter(pl.col("measure") == "strict")
    accuracy = dict(ladder.select("arm", "accuracy").iter_rows())
    assert (accuracy["base"], accuracy["tuned"]) == (rate(RUN_ON), rate(pair.writes))
    gains = dict(read(out, "comparisons/comparisons").select("comparison", "gain").iter_rows())
    assert gains["each as it is asked"] == pytest.approx(rate(pair.writes) - rate(RUN_ON))
    assert gains["both as the base"] == pytest.approx(rate(ASTRAY) - rate(RUN_ON))
    assert gains["both as the tuned model"] == pytest.approx(rate(pair.writes) - rate(ASTRAY))
    page = (out / "report.html").read_text()
    assert f"{pair.base} by raw, {pair.tuned} by {pair.tuned_format}" in page
    assert not any(mark in page for mark in ("<think>", "</think>", "<|im_end|>", "<｜User｜>", "<|endoftext|>"))
