"""A problem is put to a model as its checkpoint wants it, and the ids are those that it was trained on."""

import contextlib
import json
import re
from dataclasses import replace

import pytest

from lab.models.load import assemble, of_network
from lab.models.prompt_format import FewShot, Jinja, Prompter, Raw, Template, own_format, turn_end, typed_format
from lab.models.tiny import EOS, byte_tokenizer, tiny_network
from lab.records.errors import ModelError
from tests.kinds import one_always
from tests.real import TOKENIZERS, real_tokenizer, tokenizer_directory

CHAT = (
    "{{ bos_token or '' }}{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DATED = "{% for turn in messages %}{{ strftime_now('%d %B %Y') }}: {{ turn['content'] }}{% endfor %}"
THINKING = CHAT + "{% if add_generation_prompt %}<think>\n{% endif %}"
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}2+2?"
DEAF = "{% for turn in messages if turn['role'] == 'user' %}{{ turn['content'] }}{% endfor %}"


def chat_tokenizer(template=CHAT):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return tokenizer


def shown(prompt_format, tokenizer):
    return Prompter(format=prompt_format, tokenizer=tokenizer).text("2+2?")


def test_raw_text_is_read_as_it_is():
    tokenizer = chat_tokenizer()
    assert Prompter(format=Raw(), tokenizer=tokenizer).ids("ab", opening="c") == [97, 98, 99]


def test_a_template_gives_the_ids_that_transformers_gives():
    tokenizer = chat_tokenizer()
    turns = [{"role": "user", "content": "2+2?"}]
    wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert Prompter(format=Template(), tokenizer=tokenizer).ids("2+2?") == wanted


def test_an_opening_goes_on_behind_the_mark_of_the_answer():
    prompter = Prompter(format=Template(), tokenizer=chat_tokenizer())
    assert prompter.ids("2+2?", "Let") == [*prompter.ids("2+2?"), *b"Let"]


def test_a_system_turn_and_arguments_reach_the_template():
    text = shown(Template(system="Be brief.", arguments=(("enable_thinking", False),)), chat_tokenizer())
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert text.endswith("<think>\n\n</think>\n\n")


def test_the_day_is_the_same_every_day():
    assert shown(Template(), chat_tokenizer(DATED)) == "01 January 2025: 2+2?"


def test_worked_examples_stand_before_the_question():
    text = shown(FewShot(examples=(("1+1?", "2"), ("3+3?", "6"))), chat_tokenizer())
    assert text == "Question: 1+1?\nAnswer: 2\n\nQuestion: 3+3?\nAnswer: 6\n\nQuestion: 2+2?\nAnswer:"


def test_a_users_jinja_is_rendered_with_the_prompt():
    assert shown(Jinja(source="Q {{ prompt }} A"), chat_tokenizer()) == "Q 2+2? A"


def test_a_bos_is_there_once_and_an_end_never():
    from tokenizers.processors import TemplateProcessing

    tokenizer = chat_tokenizer("{{ bos_token }}" + CHAT)
    tokenizer.bos_token = "<|im_start|>"
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|eos|>", special_tokens=[("<|im_start|>", start), ("<|eos|>", EOS)]
    )
    for prompt_format in (Raw(), Jinja(source="{{ prompt }}"), Jinja(source="{{ bos_token }}{{ prompt }}")):
        assert Prompter(format=prompt_format, tokenizer=tokenizer).ids("a") == [start, 97], prompt_format
    assert Prompter(format=Template(), tokenizer=tokenizer).ids("a")[-1] != EOS


@pytest.mark.parametrize(
    ("template", "said"),
    [(REFUSING, "refuses: TemplateError: no system turn; "), (DEAF, "leaves the system turn out: ")],
)
def test_a_template_without_a_system_turn_says_so_in_a_line_where_one_is_wanted(template, said):
    assert shown(Template(), chat_tokenizer(template)) == "2+2?"
    with pytest.raises(ModelError, match=rf"the chat template of .* {said}give no --prompts.system, or a .jinja"):
        shown(Template(system="Be brief."), chat_tokenizer(template))


@pytest.mark.parametrize(
    "template", ["{{ 1 // 0 }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ [][3].x }}"]
)
def test_a_template_that_breaks_is_told_in_a_line(template):
    with pytest.raises(ModelError, match="refuses"):
        shown(Template(), chat_tokenizer(template))


@pytest.mark.parametrize(
    ("template", "opened"),
    [
        (CHAT, ""),
        (THINKING, "<think>\n"),
        (f"{CHAT}<think>\nOkay, ", "<think>\nOkay, "),
        (f"{CHAT}<reasoning>", "<reasoning>"),
        (f"{CHAT}<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        (f"{CHAT}Use <think> marks.\nAnswer:", ""),
    ],
)
def test_what_a_template_opens_stands_before_the_text_of_a_completion(template, opened):
    prompter = Prompter(format=Template(), tokenizer=chat_tokenizer(template))
    model = assemble(tiny_network("llama", seed=0, d_vocab=262), prompter.tokenizer, name="chat")
    assert prompter.opened == opened
    assert replace(model, prompter=prompter).text(list(b"so 4</think>")) == f"{opened}so 4</think>"


def test_a_model_that_stops_where_its_template_does_is_asked_by_it_and_a_base_is_not():
    tokenizer = chat_tokenizer()
    end = turn_end(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == "<|im_end|>"
    assert own_format(tokenizer, frozenset({end, EOS})) == Template()
    assert own_format(tokenizer, frozenset({EOS})) == Raw()
    assert own_format(byte_tokenizer(), frozenset({EOS})) == Raw()


def test_a_template_of_plain_words_is_what_its_makers_meant():
    assert own_format(chat_tokenizer("Solve: {{ messages[0]['content'] }}"), frozenset({EOS})) == Template()


def test_a_model_ends_where_its_template_ends_a_turn_too():
    model = assemble(tiny_network("llama", seed=0, d_vocab=262), chat_tokenizer(), name="chat")
    assert {EOS, turn_end(model.tokenizer)} == set(model.ends)
    assert str(model.prompter.format) == "raw"


def test_what_is_made_of_a_model_is_asked_and_ends_as_it_does():
    network = tiny_network("llama", seed=0, d_vocab=262)
    chat = Prompter(format=Template(), tokenizer=chat_tokenizer())
    model = replace(assemble(network, chat_tokenizer(), name="chat"), prompter=chat, ends=frozenset({7}))
    other = of_network(model, tiny_network("llama", seed=1, d_vocab=262), name="other")
    assert (other.prompter, other.ends) == (chat, {7})
    assert other.raw().prompter.format == Raw()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("auto", Template(system="x")),
        ("raw", Raw()),
        ("template", Template(system="x")),
        ("few-shot:1", FewShot(examples=(("q", "a"),))),
    ],
)
def test_formats_are_typed(typed, wanted):
    assert typed_format(typed, own=Template(), system="x", examples=[("q", "a"), ("r", "b")]) == wanted


@pytest.mark.parametrize("typed", ["few-shot:9", "few-shot:", "chatml", "gone.jinja"])
def test_other_formats_are_refused(typed):
    with pytest.raises(ModelError, match=r"want|no Jinja template"):
        typed_format(typed, own=Raw(), examples=[("q", "a")])


OWN = {
    "DeepSeek-R1-Distill-Qwen-7B": "template",
    "Mistral-7B-v0.3": "raw",
    "OLMo-2-0425-1B": "raw",
    "OLMo-2-0425-1B-Instruct": "template",
    "Olmo-3-7B": "raw",
    "Olmo-3-7B-Instruct": "template",
    "Olmo-3-7B-RLZero-Math": "template",
    "Qwen2.5-7B": "raw",
    "Qwen2.5-Math-7B-Instruct": "template",
    "Qwen3-30B-A3B-Thinking-2507": "template",
    "Qwen3-8B": "template",
    "Qwen3-8B-Base": "raw",
    "SmolLM2-135M-Instruct": "template",
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", one_always(OWN))
def test_published_checkpoints_are_asked_as_their_makers_do(name):
    tokenizer = real_tokenizer(name)
    named = json.loads((tokenizer_directory(name) / "generation_config.json").read_text())["eos_token_id"]
    ends = frozenset([*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id])
    assert str(own_format(tokenizer, ends)) == OWN[name]
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "What is 2+2?"}]
        wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        prompter = Prompter(format=Template(), tokenizer=tokenizer)
        assert prompter.ids("What is 2+2?") == wanted
        assert bool(prompter.opened) == ("Thinking" in name)


@pytest.mark.real_data
def test_public_templates_are_rendered_on_the_day_that_is_frozen_with_a_system_turn_or_without():
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (TOKENIZERS / "templates").glob("*.jinja")}
    if not sources:
        pytest.skip("no public templates beside the checkout")
    opened, dated, deaf = set(), set(), {*sources}
    for name, source in sources.items():
        tokenizer = chat_tokenizer(source)
        tokenizer.bos_token, tokenizer.model_max_length = "<s>", 4096
        plain = Prompter(format=Template(), tokenizer=tokenizer)
        assert "2+2?" in plain.text("2+2?")
        assert plain.text("2+2?") == shown(Jinja(source=source), tokenizer)
        assert plain.ids("2+2?").count(tokenizer.bos_token_id) <= 1
        turn_end(tokenizer)
        opened |= {name} if plain.opened else set()
        dated |= {name} if re.search(r"(January|Jan)\b.{,6}2025|2025-01-01", plain.text("2+2?")) else set()
        with contextlib.suppress(ModelError):
            assert "Be brief." in shown(Template(system="Be brief."), tokenizer)
            deaf.remove(name)
    assert opened >= {"Qwen3.5-4B", "open-instruct-r1_simple_chat_postpend_think"}
    assert dated == {name for name, source in sources.items() if "strftime_now" in source}
    assert deaf >= {"open-instruct-qwen_instruct_user_boxed_math"}


def test_a_template_that_writes_half_a_character_or_is_not_utf_8_is_refused(tmp_path):
    half = Prompter(format=Jinja(source="{{ '\\ud83d' }}{{ prompt }}"), tokenizer=byte_tokenizer())
    with pytest.raises(ModelError, match="the Jinja template writes half a character: want a template of whole ones"):
        half.ids("2+2?", "")
    file = tmp_path / "a.jinja"
    file.write_bytes(b"caf\xe9 {{ prompt }}")
    with pytest.raises(
        ModelError, match=r"cannot read the template .*a\.jinja: UnicodeDecodeError: .*; want a text in UTF-8"
    ):
        typed_format(str(file), own=Raw())
