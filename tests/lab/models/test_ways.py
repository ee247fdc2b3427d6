"""Both models of a pair are asked as was chosen, and what is offered to one is offered to the other."""

from dataclasses import replace

import pytest

from lab.models.load import assemble
from lab.models.pair import ModelPair, PromptChoice, asked_pair, own_way, ways
from lab.models.prompt_format import Raw, Template
from lab.models.tiny import byte_tokenizer, tiny_network
from lab.records.errors import DecodingError, ModelError
from lab.sampling.sample import encode_prompt
from lab.sampling.trace import GREEDY
from lab.tasks.problem import Problem
from tests.lab.models.test_prompt_format import CHAT, chat_tokenizer

EXAMPLES = (("1+1?", "2"), ("3+3?", "6"))


def model(name, template):
    tokenizer = byte_tokenizer() if template is None else chat_tokenizer(template)
    return assemble(tiny_network("llama", seed=0, d_vocab=262), tokenizer, name=name)


@pytest.fixture(scope="module")
def pair():
    base = model("base", None)
    return ModelPair(base=base, tuned=model("tuned", CHAT))


def test_a_base_without_a_template_reads_the_very_ids_that_the_tuned_model_was_tuned_on(pair):
    asked = asked_pair(pair, PromptChoice(base="template", tuned="template"), EXAMPLES)
    assert asked.base.prompt_ids("2+2?") == asked.tuned.prompt_ids("2+2?")
    assert asked.base.prompt_ids("2+2?")[0] == asked.tuned.tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_all_ways_are_offered_to_both_and_those_in_use_are_among_them(pair):
    asked = asked_pair(pair, PromptChoice(tuned="template"), EXAMPLES)
    offered = ways(asked, PromptChoice(tuned="template", tried=("raw", "few-shot:2", "template")), EXAMPLES)
    assert list(offered) == ["raw", "template", "few-shot:2"]
    assert own_way(offered, "base", asked.base) == "raw"
    assert own_way(offered, "tuned", asked.tuned) == "template"
    assert offered["template"].base.ids("x") == offered["template"].tuned.ids("x")


def test_more_worked_examples_than_there_are_problems_are_not_offered(pair):
    assert "few-shot:4" not in ways(pair, PromptChoice(), EXAMPLES)


def test_a_format_that_is_none_cannot_be_tried(pair):
    with pytest.raises(ModelError, match="want few-shot:N"):
        ways(pair, PromptChoice(tried=("few-shot:many",)), EXAMPLES)


def test_two_templates_of_one_pair_have_two_names():
    other = CHAT.replace("<|im_start|>assistant\n", "<|im_start|>model\n")
    both = ModelPair(base=model("base", CHAT), tuned=model("tuned", other))
    asked = asked_pair(both, PromptChoice(base="template", tuned="template"), ())
    assert list(ways(asked, PromptChoice(tried=()), ())) == ["template of the base", "template"]


def test_nothing_is_compared_where_neither_model_has_a_template():
    plain = model("base", None)
    assert ways(ModelPair(base=plain, tuned=replace(plain, name="tuned")), PromptChoice(), EXAMPLES) == {}


def test_arguments_are_read_as_json_and_reach_the_template(pair):
    choice = PromptChoice(tuned="template", arguments=("enable_thinking=false",))
    asked = asked_pair(pair, choice, EXAMPLES)
    assert asked.tuned.prompter.format == Template(arguments=(("enable_thinking", False),))
    assert asked.base.prompter.format == Raw()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"tuned": "template", "arguments": ("enable_thinkng=false",)}, "knows the argument"),
        ({"system": "Be brief."}, "neither model is asked by a chat template"),
        ({"base": "chatml"}, "want auto, raw, template"),
    ],
)
def test_what_cannot_act_is_refused(pair, choice, message):
    with pytest.raises(ModelError, match=message):
        asked_pair(pair, PromptChoice(**choice), EXAMPLES)


@pytest.mark.parametrize("choice", [{"n_samples": 0}, {"arguments": ("enable_thinking",)}])
def test_a_choice_of_no_meaning_is_refused(choice):
    with pytest.raises(ModelError, match="want"):
        PromptChoice(**choice)


def test_a_pair_of_which_neither_has_a_template_cannot_be_asked_by_one():
    plain = model("base", None)
    with pytest.raises(ModelError, match="neither base nor tuned has a chat template"):
        asked_pair(ModelPair(base=plain, tuned=replace(plain, name="tuned")), PromptChoice(base="template"), ())


def test_a_base_without_rows_for_a_template_cannot_be_asked_by_it():
    narrow = assemble(tiny_network("llama", seed=0, d_vocab=258), byte_tokenizer(), name="base")
    choice = PromptChoice(base="template", tuned="template")
    asked = asked_pair(ModelPair(base=narrow, tuned=model("tuned", CHAT)), choice, ()).base
    with pytest.raises(DecodingError, match="has token 259, and base has rows for 258"):
        encode_prompt(asked, Problem(id="p", prompt="2+2?", answer="4", family="", source=""), GREEDY)
