"""A pair is checked by its configurations and tokenizers alone, and every refusal is a row with what to do."""

import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import MambaConfig

from lab.models import pair_check
from lab.models.load import load
from lab.models.pair_check import PAIR, Checkpoint, Machine, PairCheck, check, read_checkpoint
from lab.models.source import AdapterModel, BuiltInModel, GgufModel, HubModel, LocalModel
from lab.models.tiny import byte_tokenizer, tiny_model, tiny_network
from tests.kinds import one_always
from tests.lab.models.test_gguf_weights import write_gguf
from tests.lab.models.test_load import saved, saved_adapter
from tests.real import tokenizer_directory

CPU = torch.device("cpu")
# (base, tuned) -> what its rows say of prompts, of the ends of both together, and of thinking.
REAL = {
    ("Qwen2.5-Math-7B", "DeepSeek-R1-Distill-Qwen-7B"): ("raw", "template", "151643, 151645", "opened by the model"),
    ("Qwen2.5-Math-7B", "Qwen2.5-Math-7B-Instruct"): ("raw", "template", None, "not known to the prompt"),
    ("Qwen2.5-7B", "Qwen2.5-7B-Instruct"): ("raw", "template", None, "not known to the prompt"),
    ("Qwen3-8B-Base", "Qwen3-8B"): ("raw", "template", None, "opened by the model"),
    ("OLMo-2-0425-1B", "OLMo-2-0425-1B-Instruct"): ("raw", "template", None, "not known to the prompt"),
    ("Olmo-3-7B", "Olmo-3-7B-Instruct"): ("raw", "template", "100257, 100265", "not known to the prompt"),
    ("Olmo-3-7B", "Olmo-3-7B-RLZero-Math"): ("raw", "template", None, "not known to the prompt"),
    ("SmolLM2-135M", "SmolLM2-135M-Instruct"): ("raw", "template", "0, 2", "not known to the prompt"),
}  # fmt: skip


@cache
def real(name):
    return read_checkpoint(LocalModel(path=tokenizer_directory(name)))


def here(path):
    return read_checkpoint(LocalModel(path=path))


def rows(found: PairCheck):
    """Rows by what they are about; none is said twice."""
    by_fact = {fact.fact: fact for fact in found.facts}
    assert len(by_fact) == len(found.facts)
    return by_fact


@pytest.mark.real_data
@pytest.mark.parametrize("names", one_always(REAL), ids=" ".join)
def test_real_pairs_are_accepted_without_their_weights(names):
    base, tuned = map(real, names)
    found = check(base, tuned, max_new_tokens=2048)
    assert found.refusals == ()
    told, (of_base, of_tuned, union, thinking) = rows(found), REAL[names]
    assert told["prompt format"][1:3] == (of_base, of_tuned)
    assert told["thinking"].tuned == thinking
    assert told["reading of texts"].verdict == "ok"
    assert told["weights"][1:4] == ("not here", "not here", "note")
    assert told["one prompt"].base == "What is 6 times 7?"
    assert "What is 6 times 7?" in told["one prompt"].tuned
    assert told["ends"].verdict == ("differs" if union else "ok")
    assert (union or "") in told["ends"].advice
    assert told["token that opens a text"].tuned in ("none", f"{tuned.prompter.tokenizer.bos_token}, 1 x")
    assert found.table.schema == PAIR.dtypes


@pytest.mark.real_data
def test_what_differs_in_a_real_pair_is_told():
    told = rows(check(real("Qwen2.5-Math-7B"), real("DeepSeek-R1-Distill-Qwen-7B")))
    names = told["special tokens"]
    assert names.base.startswith("151643 <|endoftext|>, 151644 <|im_start|>")
    assert names.tuned.startswith("151643 <｜end▁of▁sentence｜>, 151644 <｜User｜>")
    assert names.tuned.endswith("151649 </think>")
    assert told["one prompt"].tuned == "<｜begin▁of▁sentence｜><｜User｜>What is 6 times 7?<｜Assistant｜>"
    assert told["token that opens a text"].tuned == "<｜begin▁of▁sentence｜>, 1 x"
    assert told["context"][1:3] == ("4,096", "131,072")
    assert "is asked raw" in told["prompt format"].advice
    assert told["new tokens"].verdict == "note"
    assert told["parameters"].base == "7,615,616,512"


@pytest.mark.real_data
def test_pairs_of_two_families_are_refused_with_everything_that_differs():
    found = check(real("Qwen2.5-Math-7B"), real("SmolLM2-135M"))
    assert [fact.fact for fact in found.refusals] == ["blocks", "width", "reading of texts"]
    assert all(fact.advice for fact in found.refusals)
    assert "tokens differ between base and tuned model, such as" in found.refusals[-1].advice


@pytest.mark.real_data
@pytest.mark.slow
def test_only_the_experts_that_are_chosen_count_for_the_time():
    found = real("Qwen3-30B-A3B-Thinking-2507")
    assert found.n_parameters == 30_532_122_624
    assert 3.0e9 < found.n_active < 3.6e9
    assert rows(check(found, found))["thinking"].base == "opened by the prompt"


def test_files_and_a_loaded_model_say_the_same(tmp_path):
    saved(tmp_path / "base")
    saved_adapter(tmp_path / "adapter", tiny_network("llama", seed=0), "../base")
    byte_tokenizer().save_pretrained(tmp_path / "adapter")
    write_gguf(tmp_path / "a.gguf", tiny_network("llama", seed=0))
    kinds = [
        LocalModel(path=tmp_path / "base"),
        AdapterModel(path=tmp_path / "adapter"),
        GgufModel(path=tmp_path / "a.gguf"),
    ]
    for source in kinds:
        read, loaded = read_checkpoint(source), Checkpoint.of(load(source, device=CPU, dtype=torch.float32))
        assert read.refusals == ()
        assert rows(check(read, read)).keys() == rows(check(loaded, loaded)).keys()
        for one, other in zip(check(read, read).facts, check(loaded, loaded).facts, strict=True):
            assert one == other or one.fact in ("weights", "stored as")


def test_a_built_in_model_and_one_on_the_hub_are_read_too(tmp_path, monkeypatch):
    found = read_checkpoint(BuiltInModel(name="zero-base"))
    assert (found.name, found.refusals, found.n_parameters) == ("zero-base", (), 856_192)
    saved(tmp_path)
    asked = []
    monkeypatch.setattr(pair_check, "downloaded", lambda *names, **told: asked.append((names, told)) or tmp_path)
    found = read_checkpoint(HubModel(name="org/name"))
    assert asked == [(("org/name", None), {"weights": False})]
    assert (found.name, found.weights, found.refusals) == ("org/name", "on the hub", ())


def test_a_model_that_cannot_be_fetched_is_a_row(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = check(read_checkpoint(HubModel(name="nobody/nothing")), Checkpoint.of(tiny_model()))
    (refusal,) = found.refusals
    assert refusal.base.startswith("cannot get 'nobody/nothing' from the hub")


def test_all_refusals_are_listed_together(tmp_path):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    saved(base)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    tuned.mkdir()
    MambaConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, state_size=2).save_pretrained(tuned)
    found = check(here(base), here(tuned))
    assert {(fact.fact, bool(fact.base)) for fact in found.refusals} == {("can be read", True), ("can be read", False)}
    told = [fact.base or fact.tuned for fact in found.refusals]
    assert "only pickled weights (pytorch_model.bin)" in told[0]
    assert any("tuned: there is no tokenizer.json" in one for one in told)
    assert any("is of family 'mamba', which keeps what it has read in a way of its own" in one for one in told)


def test_a_directory_without_a_configuration_is_refused(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (refusal,) = check(here(tmp_path), Checkpoint.of(tiny_model())).refusals
    assert "is not a model: it has no config.json" in refusal.base


@pytest.mark.parametrize(("shape", "fact"), [({"d_model": 16}, "width"), ({"n_layers": 3}, "blocks")])
def test_another_shape_is_refused(shape, fact, tmp_path):
    saved(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "tuned")
    tiny_network("llama", seed=0, **shape).config.save_pretrained(tmp_path / "tuned")
    assert [row.fact for row in check(here(tmp_path / "base"), here(tmp_path / "tuned")).refusals] == [fact]


def test_prompts_that_leave_no_room_for_an_answer_are_refused():
    tiny = Checkpoint.of(tiny_model())
    told = rows(check(tiny, tiny, questions=[("x" * 100, ""), ("x" * 150, "y" * 6)], max_new_tokens=100))
    assert told["context"][3:] == ("ok", "prompts leave 100 tokens for an answer")
    told = rows(check(tiny, tiny, questions=[("x" * 157, "")], max_new_tokens=100))
    advice = "prompts leave 99 tokens for an answer: lower --max-new-tokens, which is 100"
    assert told["context"][3:] == ("refused", advice)


def test_a_long_prompt_is_shown_without_its_middle():
    tiny = Checkpoint.of(tiny_model())
    shown = rows(check(tiny, tiny, questions=[("a" * 600 + "b" * 600, "")]))["one prompt"].base
    assert shown == "a" * 240 + " [... 720 characters ...] " + "b" * 240


def test_memory_and_time_are_arithmetic(monkeypatch):
    monkeypatch.setattr(pair_check, "flop_rate", lambda device, dtype: 1e6)
    monkeypatch.setattr(pair_check, "device_memory", lambda device: 1_000)
    tiny = Checkpoint.of(tiny_model())
    big = replace(tiny, n_parameters=25 * 10**7, n_active=10**6)
    machine = Machine(CPU, torch.float32, batch_size=50_000, n_completions=18)
    told = rows(check(big, big, questions=[("x" * 60, "")], max_new_tokens=100, machine=machine))
    # Keys and values, two blocks of two stored heads of eight, four bytes: 256 bytes a token, of 160.
    assert told["memory"].base == "1.0 GB, cache 2.0 GB"
    assert told["memory"].verdict == "note"
    assert told["time"].base == "1.0 hours"
    assert "arithmetic, no run: 1,800 tokens at most" in told["time"].advice


def test_an_adapters_own_tokenizer_and_the_settings_below_decide_how_it_is_asked(tmp_path):
    saved(tmp_path / "base")
    saved_adapter(tmp_path / "adapter", tiny_network("llama", seed=0), "../base")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}<|eos|>{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    source = AdapterModel(path=tmp_path / "adapter")
    found = read_checkpoint(source)
    assert str(found.prompter.format) == "template"
    assert str(load(source, device=CPU, dtype=torch.float32).prompter.format) == "template"
    assert found.weights == f"an adapter on {tmp_path / 'adapter' / '../base'}"
    assert (
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "../base"
    )
