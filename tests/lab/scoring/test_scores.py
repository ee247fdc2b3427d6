"""Both models' view of completions, against full passes of the plain networks over one text at a time."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, OPTConfig, RecurrentGemmaConfig

from lab.models.load import Model, assemble, finished
from lab.models.pair import ModelPair
from lab.models.prompt_format import Jinja, Prompter
from lab.models.tiny import byte_tokenizer, tiny_model, tiny_network
from lab.records.errors import ModelError
from lab.sampling.decoder import token_positions
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, Trace, trace_table
from lab.scoring import scores as texts
from lab.scoring.evidence import RANKS, SCORES
from lab.scoring.scores import Row, answer_scores, pieces, scores
from lab.tasks.problem import Problem
from steering.hybrid.hybrid import Hybrid, open_hybrid
from steering.hybrid.interventions import Takeover
from steering.hybrid.routers import Always
from tests.kinds import one_always

WORDS = ("a", "what is 2+3?", "prompts of unequal length are the point of this", "xy")
PROBLEMS = [
    Problem(id=f"p{index}", prompt=word, answer="", family="all", source="test") for index, word in enumerate(WORDS)
]
BY_ID = {problem.id: problem for problem in PROBLEMS}
# Completions of unequal length too, one of a single token, one closed by the end token (257).
COMPLETIONS = ([5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [104, 105, 257], list(range(40, 60)))


def pair_of(family) -> ModelPair:
    """A base and the same network with a little noise, so that they agree at some tokens and not at others."""
    base = tiny_model(family, seed=5)
    network, generator = copy.deepcopy(base.network), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return ModelPair(base=base, tuned=assemble(network, byte_tokenizer(), name="tuned"))


@pytest.fixture(scope="module", params=one_always(["llama", "gemma2", "gpt2"]))
def pair(request) -> ModelPair:
    return pair_of(request.param)


@pytest.fixture(scope="module")
def llamas() -> ModelPair:
    return pair_of("llama")


def traces_of(completions=COMPLETIONS, problems=PROBLEMS) -> pl.DataFrame:
    return trace_table(
        "any",
        [
            Trace(
                problem_id=problem.id,
                sample_index=index % 3,
                tokens=tuple(tokens),
                logprobs=(0.0,) * len(tokens),
                routes=(0,) * len(tokens),
                categories=(-1,) * len(tokens),
                content_bits=(0.0,) * len(tokens),
                text="",
                stop="length",
            )
            for index, (problem, tokens) in enumerate(zip(problems, completions, strict=True))
        ],
    )


@torch.no_grad()
def tables(model: Model, context, completion) -> torch.Tensor:
    """Next-token log-probabilities at each token of the completion, from one plain pass: no padding, mask or cache."""
    logits = model.network(torch.tensor([[*context, *completion]]), use_cache=False).logits[0]
    return logits[len(context) - 1 : -1].double().log_softmax(dim=-1)


def chosen(table, completion) -> float:
    return float(table[torch.arange(len(completion)), completion].sum())


def prompt_of(model, problem):
    return model.tokenizer(problem.prompt).input_ids


@pytest.mark.parametrize("writer", ["base", "tuned"])
def test_all_figures_equal_those_of_plain_passes_over_one_text_at_a_time(pair, writer):
    read = scores(pair, writer, traces_of(), BY_ID)
    assert read.scores["problem_id"].to_list() == [problem.id for problem in PROBLEMS]
    for row, problem, completion in zip(read.scores.iter_rows(named=True), PROBLEMS, COMPLETIONS, strict=True):
        base, tuned = (tables(model, prompt_of(model, problem), completion) for model in (pair.base, pair.tuned))
        assert (row["writer"], row["n_tokens"]) == (writer, len(completion))
        assert row["logp_base"] == pytest.approx(chosen(base, completion), abs=1e-5 * len(completion))
        assert row["logp_tuned"] == pytest.approx(chosen(tuned, completion), abs=1e-5 * len(completion))
        ours, theirs = (base, tuned) if writer == "base" else (tuned, base)
        divergence = torch.nn.functional.kl_div(theirs, ours, log_target=True, reduction="sum")
        assert row["token_kl"] == pytest.approx(float(divergence), abs=1e-5 * len(completion))
        assert row["token_kl"] > 0.01
        mine = read.ranks.filter(pl.col("problem_id") == problem.id)
        assert mine["position"].to_list() == list(range(len(completion)))
        entropy = torch.distributions.Categorical(logits=base).entropy()
        np.testing.assert_allclose(mine["entropy"].to_numpy(), entropy.numpy(), atol=1e-5)
        places = base.argsort(dim=-1, descending=True) == tuned.argmax(dim=-1, keepdim=True)
        assert mine["rank"].to_list() == (1 + places.int().argmax(dim=-1)).tolist()
    SCORES.checked(read.scores)
    RANKS.checked(read.ranks)


def test_rank_is_one_exactly_where_both_would_write_the_same_token(pair):
    ranks = scores(pair, "tuned", traces_of(), BY_ID).ranks["rank"].to_list()
    agree = []
    for problem, completion in zip(PROBLEMS, COMPLETIONS, strict=True):
        base, tuned = (tables(model, prompt_of(model, problem), completion) for model in (pair.base, pair.tuned))
        agree += (base.argmax(dim=-1) == tuned.argmax(dim=-1)).tolist()
    assert [rank == 1 for rank in ranks] == agree
    assert len(set(agree)) == 2, "the test means something only where some tokens are agreed on and some are not"
    assert min(ranks) == 1


def test_a_model_beside_itself_has_no_divergence_and_agrees_everywhere(llamas):
    read = scores(ModelPair(base=llamas.base, tuned=llamas.base), "tuned", traces_of(), BY_ID)
    assert read.scores["token_kl"].to_list() == pytest.approx([0.0] * 4, abs=1e-9)
    assert read.scores["logp_base"].to_list() == read.scores["logp_tuned"].to_list()
    assert set(read.ranks["rank"]) == {1}


@pytest.mark.parametrize("writer", ["base", "tuned"])
def test_what_was_recorded_while_sampling_is_what_the_writer_is_read_to_think(pair, writer):
    model = pair.base if writer == "base" else pair.tuned
    written = sample(model, PROBLEMS, 3, Decoding(max_new_tokens=12), seed=1)
    read = scores(pair, writer, trace_table("any", written), BY_ID).scores
    assert read[f"logp_{writer}"].to_list() == pytest.approx([sum(trace.logprobs) for trace in written], abs=1e-3)
    other = "tuned" if writer == "base" else "base"
    assert read[f"logp_{other}"].to_list() != pytest.approx(read[f"logp_{writer}"].to_list(), abs=0.1)
    assert read.select("problem_id", "sample_index").rows() == [
        (trace.problem_id, trace.sample_index) for trace in written
    ]


@pytest.mark.parametrize(("rows", "numbers"), [(1, 2**25), (2, 2**25), (256, 1), (256, 258 * 70), (256, 2**25)])
def test_neither_padding_nor_company_changes_a_figure(pair, monkeypatch, rows, numbers):
    alone = [
        scores(pair, "tuned", traces_of([completion], [problem]), BY_ID)
        for problem, completion in zip(PROBLEMS, COMPLETIONS, strict=True)
    ]
    monkeypatch.setattr(texts, "MOST_ROWS", rows)
    monkeypatch.setattr(texts, "AT_ONCE", numbers)
    together = scores(pair, "tuned", traces_of(), BY_ID)
    for column in ("n_tokens", "logp_base", "logp_tuned", "token_kl"):
        wanted = [read.scores[column][0] for read in alone]
        assert together.scores[column].to_list() == pytest.approx(wanted, abs=5e-5)
    assert together.ranks["rank"].to_list() == [rank for read in alone for rank in read.ranks["rank"]]
    backward = scores(pair, "tuned", traces_of().reverse(), BY_ID)
    assert backward.scores["problem_id"].to_list() == [problem.id for problem in PROBLEMS[::-1]]
    assert backward.scores["logp_tuned"].to_list()[::-1] == pytest.approx(together.scores["logp_tuned"].to_list())
    assert backward.ranks["problem_id"].to_list() == together.ranks["problem_id"].to_list()


def test_an_answer_has_the_log_probability_of_a_plain_pass_and_is_greedy_only_where_greedy_decoding_writes_it(pair):
    contexts = [prompt_of(pair.base, problem) for problem in PROBLEMS]
    asked = [Row(context, completion) for context, completion in zip(contexts, COMPLETIONS, strict=True)]
    greedy = sample(pair.base, PROBLEMS, 1, Decoding(temperature=0.0, max_new_tokens=4), seed=0)
    asked += [Row(context, list(trace.tokens)) for context, trace in zip(contexts, greedy, strict=True)]
    # Its last token alone is another one.
    asked.append(Row(contexts[0], [*greedy[0].tokens[:-1], (greedy[0].tokens[-1] + 1) % 256]))
    logps, early = answer_scores(pair.base, asked)
    wanted = [chosen(tables(pair.base, *row), row.completion) for row in asked]
    assert logps.tolist() == pytest.approx(wanted, abs=5e-5)
    assert early == [False] * 4 + [True] * 4 + [False]


def test_no_rows_have_no_scores(llamas):
    logps, early = answer_scores(llamas.base, [])
    assert logps.shape == (0,)
    assert early == []


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=20), st.integers(1, 5))
def test_pieces_hold_every_row_once_unbroken_and_behind_its_padding(sizes, n_most):
    rows = [Row([index] * left, [100 + index] * right) for index, (left, right) in enumerate(sizes)]
    held = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "MOST_ROWS", n_most)
        for indices, read in pieces(LLAMA, rows):
            assert 1 <= len(indices) <= n_most
            assert list(read.rows) == [rows[index] for index in indices]
            for row, tokens, mask in zip(read.rows, read.tokens.tolist(), read.mask.tolist(), strict=True):
                real = [token for token, is_real in zip(tokens, mask, strict=True) if is_real]
                assert real == row.context + row.completion
                assert mask == sorted(mask)
            held += indices
    assert sorted(held) == list(range(len(rows)))


def test_pieces_keep_their_positions_within_bounds_and_those_of_a_wide_model_closer(monkeypatch):
    monkeypatch.setattr(texts, "MOST_TOKENS", 40)
    rows = [Row([0] * (length - 1), [1]) for length in (1, 10, 11, 20, 20, 39, 41, 80)]
    for indices, read in pieces(LLAMA, rows):
        assert len(indices) == 1 or read.tokens.numel() <= 40
    assert [len(indices) for indices, _ in pieces(LLAMA, rows)] == [1, 1, 1, 2, 3]
    monkeypatch.setattr(texts, "WIDE", LLAMA.anatomy.d_model // 2)
    assert [len(indices) for indices, _ in pieces(LLAMA, rows)] == [1, 1, 1, 1, 1, 1, 2]


LLAMA = tiny_model("llama", seed=5)


def test_the_end_token_counts_as_part_of_a_completion(llamas):
    whole = traces_of([[104, 105, 257]], PROBLEMS[:1])
    cut = traces_of([[104, 105]], PROBLEMS[:1])
    ended, unended = (scores(llamas, "base", table, BY_ID).scores.row(0, named=True) for table in (whole, cut))
    table = tables(llamas.base, prompt_of(llamas.base, PROBLEMS[0]), [104, 105, 257])
    assert ended["logp_base"] - unended["logp_base"] == pytest.approx(float(table[2, 257]), abs=1e-5)
    assert (ended["n_tokens"], unended["n_tokens"]) == (3, 2)


def test_decoding_settings_of_the_writer_do_not_matter(llamas):
    """Scores are at temperature 1, however the completion was chosen."""
    cold = replace(Decoding(max_new_tokens=6), temperature=0.3)
    written = sample(llamas.base, PROBLEMS, 1, cold, seed=0)
    read = scores(llamas, "base", trace_table("any", written), BY_ID).scores
    for logp, problem, trace in zip(read["logp_base"], PROBLEMS, written, strict=True):
        table = tables(llamas.base, prompt_of(llamas.base, problem), list(trace.tokens))
        assert logp == pytest.approx(chosen(table, list(trace.tokens)), abs=1e-4)


@pytest.fixture(scope="module")
def wider() -> ModelPair:
    """A base, and a tuned model with an end and rows of its own; it is asked behind other words."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    network = tiny_network("llama", seed=2, d_vocab=264)
    asked = Prompter(format=Jinja(source="Q: {{ prompt }}"), tokenizer=tokenizer)
    tuned = replace(assemble(network, tokenizer, name="wider"), prompter=asked, ends=frozenset({258}))
    return ModelPair(base=tiny_model("llama", seed=5), tuned=tuned)


def test_an_end_that_only_one_model_has_is_read_by_neither(wider):
    ended, plain = (scores(wider, "tuned", traces_of([tokens] * 4), BY_ID) for tokens in ([65, 66, 258], [65, 66]))
    assert ended.scores.equals(plain.scores)
    with pytest.raises(ModelError, match=r"a text holds token 260, and .* can read 258"):
        scores(wider, "tuned", traces_of([[260, 65]] * 4), BY_ID)
    with pytest.raises(ModelError, match=r"a text holds token -1, and .* can read 258"):
        scores(wider, "tuned", traces_of([[-1, 65]] * 4), BY_ID)


def test_each_model_reads_a_completion_behind_its_own_prompt(wider):
    found = scores(wider, "base", traces_of([[65, 66]] * 4), BY_ID).scores
    for problem, row in zip(PROBLEMS, found.iter_rows(named=True), strict=True):
        for side, prompt, network in (
            ("base", problem.prompt, wider.base.network),
            ("tuned", f"Q: {problem.prompt}", wider.tuned.network),
        ):
            logits = network(torch.tensor([[*prompt.encode(), 65, 66]])).logits[0, :, :258].double().log_softmax(dim=-1)
            n_prompt = len(prompt.encode())
            wanted = float(logits[n_prompt - 1, 65] + logits[n_prompt, 66])
            assert row[f"logp_{side}"] == pytest.approx(wanted, abs=1e-4)


def test_a_hybrid_of_two_widths_writes_only_what_both_models_have_and_asks_each_in_its_way(wider):
    always = Hybrid(Always(), Takeover())
    greedy = Decoding(temperature=0.0, max_new_tokens=6)
    together = sample(wider.base, PROBLEMS, 1, greedy, seed=0, open_rows=open_hybrid(wider, always))
    for problem, trace in zip(PROBLEMS, together, strict=True):
        text = list(f"Q: {problem.prompt}".encode())
        for token in trace.tokens:
            assert token == int(wider.tuned.network(torch.tensor([text])).logits[0, -1, :258].argmax())
            text.append(token)


D_VOCAB = 151_936


def logs_of_plain_heads(model: Model, rows: list[Row]) -> dict[int, torch.Tensor]:
    """Log-probabilities at each row's completion: the family's formula in float32, of all residuals at once."""
    network, found = model.network, {}
    for indices, read in pieces(model, rows):
        places = {"input_ids": read.tokens, "attention_mask": read.mask, "position_ids": token_positions(read.mask)}
        logits = network.model(**places).last_hidden_state.float() @ network.lm_head.weight.float().T
        if cap := getattr(network.config, "final_logit_softcapping", None):
            logits = cap * (logits / cap).tanh()
        logs = logits.log_softmax(dim=-1)
        found |= {index: logs[place, -len(rows[index].completion) - 1 : -1] for place, index in enumerate(indices)}
    return found


@pytest.mark.parametrize("family", ["gemma2", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_at_a_large_vocabulary_all_figures_are_those_of_float32_to_a_hundred_thousandth(family, dtype, monkeypatch):
    networks = [tiny_network(family, seed=seed, n_layers=1, d_model=16, d_vocab=D_VOCAB).to(dtype) for seed in (0, 1)]
    base, tuned = (assemble(one, byte_tokenizer(), name="wide", digest="") for one in networks)
    pair = ModelPair(base=base, tuned=tuned)
    completions = [[5, 151_000, 70_000], [151_935, 0, 9, 40_000]]
    monkeypatch.setattr(texts, "MOST_LOGITS", 3 * D_VOCAB)
    monkeypatch.setattr(texts, "AT_ONCE", 2 * D_VOCAB)
    monkeypatch.setattr(texts, "MOST_WEIGHTS", 16 * 50_000)
    read = scores(pair, "tuned", traces_of(completions, PROBLEMS[:2]), BY_ID)
    rows = [Row(prompt_of(pair.base, one), tokens) for one, tokens in zip(PROBLEMS, completions, strict=False)]
    alone, _ = answer_scores(pair.base, rows)
    bases, tuneds = (logs_of_plain_heads(model, rows) for model in (pair.base, pair.tuned))
    for index, (row, tokens) in enumerate(zip(read.scores.iter_rows(named=True), completions, strict=True)):
        base, tuned, near = bases[index], tuneds[index], 1e-5 * len(tokens)
        assert row["logp_base"] == pytest.approx(chosen(base, tokens), abs=near)
        assert row["logp_tuned"] == pytest.approx(chosen(tuned, tokens), abs=near)
        assert alone[index] == pytest.approx(chosen(base, tokens), abs=near)
        wanted = float((tuned.exp() * (tuned - base)).sum())
        assert row["token_kl"] == pytest.approx(wanted, abs=near)
        mine = read.ranks.filter(problem_id=PROBLEMS[index].id)
        entropy = -(base.exp() * base).sum(dim=-1)
        np.testing.assert_allclose(mine["entropy"].to_numpy(), entropy.numpy(), atol=1e-5)
        rank = 1 + (base > base.gather(1, tuned.argmax(dim=1, keepdim=True))).sum(dim=1)
        np.testing.assert_allclose(mine["rank"].to_numpy(), rank.numpy(), atol=2)


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    "config",
    [
        CohereConfig(vocab_size=50, logit_scale=0.3, **SMALL),
        GraniteConfig(vocab_size=50, logits_scaling=7.0, **SMALL),
        RecurrentGemmaConfig(vocab_size=50, logits_soft_cap=2.0, **SMALL),
        OPTConfig(vocab_size=50, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2),
    ],
    ids=lambda config: config.model_type,
)
def test_what_a_family_makes_of_its_logits_is_what_its_own_code_makes_of_them(config):
    network = AutoModelForCausalLM.from_config(config).eval()
    unembed, made = network.get_output_embeddings(), []
    hook = unembed.register_forward_hook(lambda *given: made.append(given[-1]))
    wanted = network(torch.tensor([[3, 4, 5]]), use_cache=False).logits[0]
    hook.remove()
    assert torch.equal(finished(network, unembed, made[0][0]), wanted)


def test_a_network_whose_forward_pass_a_trainer_has_wrapped_is_scored_as_it_was():
    model = tiny_model("llama", seed=3)
    rows = [Row([1, 2, 3], [4, 5, 6])]
    plain = answer_scores(model, rows)
    inner = model.network.forward
    model.network.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    wrapped = answer_scores(model, rows)
    assert (wrapped[0].tolist(), wrapped[1]) == (plain[0].tolist(), plain[1])


def test_a_head_that_is_not_one_matrix_is_refused():
    model = tiny_model("llama", seed=6)
    forward = model.anatomy.unembed.forward
    model.anatomy.unembed.forward = lambda resid: forward(resid).flip(-1)
    with pytest.raises(ModelError, match="logits of a LlamaForCausalLM are not what its unembedding makes of its last"):
        answer_scores(model, [Row([65], [66])])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_hangs_on_neither_the_vocabulary_nor_the_length_nor_the_number_of_texts(dtype):
    """Tables of these 8,000 tokens would take 4.5 GiB a model; benchmarks/results has the growth at 200,000."""
    root = Path(__file__).parents[3]
    flags = ["--out", ".", "--way", "scores", "--n-texts", "8", "--dtype", dtype]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(root / "benchmarks" / "scoring.py"), *flags]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["growth_gib"] < 0.7
