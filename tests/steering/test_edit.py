"""Edits act while they are in place, alike with and without a cache, and leave the model as it was."""

from dataclasses import replace

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from lab.models.anatomy import find_anatomy
from lab.models.load import Model
from lab.models.tiny import tiny_model, tiny_network
from lab.records.errors import ModelError, SiteError, VectorError
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.site import Site
from probes.sae.dictionary import Sae
from steering.edit import Ablate, Add, AddScaled, ClampFeature, Rotate, apply, apply_each
from steering.gate import AtPositions, InCompletion, InPrompt
from steering.vector import Coefficient, SteeringVector
from tests.kinds import one_always

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox"]
WIDTH = 32
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
PROBLEMS = [
    Problem(id=f"p{index}", prompt=prompt, answer="", family="all", source="test")
    for index, prompt in enumerate(("a", "what is 2+3?", "chains of unequal length", "x" * 31, "no"))
]


@pytest.fixture(scope="module", params=one_always(FAMILIES))
def model(request) -> Model:
    return tiny_model(request.param, seed=5)


@pytest.fixture
def llama() -> Model:
    return tiny_model("llama", seed=5)


def vector_at(*sites, seed=0, norm=3.0, width=WIDTH) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    noise = {site: torch.randn(width, generator=generator) for site in sites}
    return SteeringVector({site: norm * row / row.norm() for site, row in noise.items()}, dict.fromkeys(sites, 1.0), "")


def sae_at(site, width=WIDTH) -> Sae:
    coder = StandardSAE(StandardSAEConfig(d_in=width, d_sae=6))
    with torch.no_grad():
        coder.W_enc.normal_(generator=torch.Generator().manual_seed(0))
        coder.W_dec.normal_(generator=torch.Generator().manual_seed(1))
    return Sae(name="random", site=site, coder=coder.requires_grad_(False), trained_on=None, digest="random")


def coefficient(width=WIDTH, seed=0) -> Coefficient:
    generator = torch.Generator().manual_seed(seed)
    W_in, b_in, w_out = (torch.randn(*shape, generator=generator) for shape in ((width, 5), (5,), (5,)))
    return Coefficient(W_in=W_in, b_in=b_in, w_out=w_out, b_out=torch.tensor(0.3))


def one_of_each(**where):
    """An edit of every kind, at the same sites, or at the first of them."""
    sites = (Site(0), Site(1, "resid_pre"))
    return (
        Add(vector_at(*sites), **where),
        AddScaled(vector_at(Site(0), seed=4), coefficient(), **where),
        Ablate(vector_at(*sites, seed=1), **where),
        ClampFeature(sae_at(Site(0)), 2, 8.0, **where),
        Rotate(vector_at(*sites, seed=2), vector_at(*sites, seed=3), 2.0, **where),
    )


@torch.no_grad()
def logits_of(model, tokens=TOKENS):
    return model.network(tokens).logits


@torch.no_grad()
def logits_at_places(model, tokens=TOKENS):
    """The same, by a caller that says where tokens stand."""
    return model.network(tokens, attention_mask=torch.ones_like(tokens)).logits


def n_hooks(model) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    return sum(len(getattr(module, kind)) for module in model.network.modules() for kind in kinds)


def test_a_zero_vector_is_the_identity(model):
    plain = logits_of(model)
    vector = vector_at(Site(0), Site(1, "resid_pre"))
    for edit in (Add(vector * 0.0), Add(vector, dose=0.0), Add(vector - vector)):
        with apply(model, edit):
            assert torch.equal(logits_of(model), plain)
    with apply(model):
        assert torch.equal(logits_of(model), plain)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_restored_bit_for_bit_also_after_an_exception(model, fails):
    plain, weights = logits_of(model), {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    at_first = n_hooks(model)
    try:
        with apply(model, *one_of_each(), *one_of_each(where=AtPositions((1, 2)))):
            assert not torch.allclose(logits_at_places(model), plain, atol=1e-2)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert n_hooks(model) == at_first
    assert torch.equal(logits_of(model), plain)
    after = model.network.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_hooks_of_someone_else_stay(llama):
    seen = []
    handle = llama.anatomy.blocks[0].register_forward_hook(lambda *_: seen.append(0))
    with apply(llama, Add(vector_at(Site(0)))):
        logits_of(llama)
    logits_of(llama)
    assert len(seen) == 2
    handle.remove()


@pytest.mark.parametrize("site", [Site(0, "resid_pre"), Site(0), Site(1)])
def test_every_position_moves_by_dose_times_the_vector(model, site):
    mask = torch.ones_like(TOKENS).bool()
    vector = vector_at(site)
    plain = capture(model, TOKENS, mask, [site])[site]
    with apply(model, Add(vector, dose=-1.5)):
        moved = capture(model, TOKENS, mask, [site])[site]
    torch.testing.assert_close(moved - plain, -1.5 * vector.directions[site].expand_as(plain), atol=1e-5, rtol=1e-4)


def test_edits_one_after_another_equal_the_edit_of_their_sum(model):
    first, second = vector_at(Site(0), Site(1)), vector_at(Site(1), Site(1, "resid_pre"), seed=1)
    with apply(model, Add(first), Add(second, dose=0.5)):
        apart = logits_of(model)
    with apply(model, Add(first + second * 0.5)):
        together = logits_of(model)
    with apply(model, Add(first)), apply(model, Add(second, dose=0.5)):
        nested = logits_of(model)
    torch.testing.assert_close(apart, together, atol=1e-4, rtol=1e-4)
    assert torch.equal(apart, nested)


def test_an_edit_and_its_negative_cancel(llama):
    vector = vector_at(Site(0))
    with apply(llama, Add(vector), Add(-vector)):
        torch.testing.assert_close(logits_of(llama), logits_of_plain(llama), atol=1e-4, rtol=1e-4)


def logits_of_plain(model):
    """The logits of a twin that nothing was applied to."""
    return logits_of(tiny_model(model.anatomy.family, seed=5))


@torch.no_grad()
@pytest.mark.parametrize("sites", [(Site(0),), (Site(0, "resid_pre"), Site(1))])
def test_decoding_with_a_cache_equals_full_passes_without_one(model, sites):
    decoding = replace(GREEDY, max_new_tokens=10)
    plain = sample(model, PROBLEMS, 1, decoding, seed=0)
    with apply(model, Add(vector_at(*sites))):
        traces = sample(model, PROBLEMS, 1, decoding, seed=0)
        for problem, trace in zip(PROBLEMS, traces, strict=True):
            text, written = list(model.tokenizer(problem.prompt).input_ids), []
            while len(written) < 10 and not model.ends & set(written):
                written.append(
                    int(model.network(torch.tensor([text + written]), use_cache=False).logits[0, -1].argmax())
                )
            assert list(trace.tokens) == written
    assert [trace.tokens for trace in traces] != [trace.tokens for trace in plain]


def test_a_vector_of_another_width_is_refused_before_any_hook(llama):
    with (
        pytest.raises(VectorError, match=r"width 8 does not fit tiny-llama-5, whose d_model is 32"),
        apply(llama, Add(vector_at(Site(0))), Add(vector_at(Site(0), width=8))),
    ):
        pass
    assert n_hooks(llama) == 0


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_out_of_range_is_refused_and_leaves_no_hook(llama, layer):
    with (
        pytest.raises(SiteError, match=f"layer {layer} is out of range: .* want 0 to 1"),
        apply(llama, Add(vector_at(Site(0))), Add(vector_at(Site(layer)))),
    ):
        pass
    assert n_hooks(llama) == 0


def test_an_edit_that_never_acted_although_the_model_ran_is_an_error_on_a_clean_exit(llama):
    blocks = llama.network.model.layers
    llama.network.model.layers = torch.nn.ModuleList([blocks[0]])
    with (
        pytest.raises(SiteError, match=r"edits at blocks\.1\.hook_resid_post never acted in 1 passes of tiny-llama-5"),
        apply(llama, Add(vector_at(Site(0), Site(1)))),
    ):
        logits_of(llama)
    assert n_hooks(llama) == 0


def test_an_exception_is_not_hidden_by_an_edit_that_never_acted(llama):
    llama.network.model.layers = torch.nn.ModuleList([llama.network.model.layers[0]])

    def fail() -> None:
        with apply(llama, Add(vector_at(Site(1)))):
            logits_of(llama)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert n_hooks(llama) == 0


def test_an_edit_of_a_model_that_did_not_run_is_no_error(llama):
    with apply(llama, Add(vector_at(Site(1)))):
        pass


def test_a_half_precision_model_takes_a_single_precision_vector():
    network = tiny_network("llama", seed=5).bfloat16()
    model = replace(tiny_model("llama", seed=5), network=network, anatomy=find_anatomy(network))
    plain, vector, mask = logits_of(model), vector_at(Site(0)), torch.ones_like(TOKENS).bool()
    stream = capture(model, TOKENS, mask, [Site(0)])[Site(0)]
    with apply(model, Add(vector)):
        steered = logits_of(model)
        moved = capture(model, TOKENS, mask, [Site(0)])[Site(0)]
    assert steered.dtype == moved.dtype == torch.bfloat16
    assert torch.equal(moved, stream + vector.directions[Site(0)].bfloat16())
    assert not torch.equal(steered, plain)
    assert torch.equal(logits_of(model), plain)


def test_each_row_gets_its_own_edit_and_no_other(model):
    edits = (Add(vector_at(Site(0), seed=1)), Add(vector_at(Site(1, "resid_pre"), seed=2), dose=-2.0))
    chosen = torch.tensor([1, 0, 1])
    with apply_each(model, edits, chosen):
        together = logits_of(model, TOKENS.expand(3, -1))
    for row, index in enumerate(chosen.tolist()):
        with apply(model, edits[index]):
            torch.testing.assert_close(together[row : row + 1], logits_of(model), atol=1e-4, rtol=1e-4)
    assert n_hooks(model) == 0


def test_edits_by_row_refuse_a_vector_of_another_width(llama):
    with (
        pytest.raises(VectorError, match="width 8 does not fit"),
        apply_each(llama, (Add(vector_at(Site(0), width=8)),), torch.tensor([0])),
    ):
        pass
    assert n_hooks(llama) == 0


@pytest.mark.parametrize("gated", [False, True])
def test_each_row_gets_its_own_kind_of_edit_whichever_others_are_there(model, gated):
    edits = one_of_each(**({"where": InCompletion()} if gated else {}))
    chosen, n_prompt = torch.tensor([3, 1, 0, 2, 1]), torch.tensor([2, 5, 3, 1, 8])
    with apply_each(model, edits, chosen, n_prompt=n_prompt):
        together = logits_at_places(model, TOKENS.expand(5, -1))
    for row, index in enumerate(chosen.tolist()):
        with apply(model, edits[index], n_prompt=n_prompt[row : row + 1]):
            torch.testing.assert_close(together[row : row + 1], logits_at_places(model), atol=1e-4, rtol=1e-4)


def test_edits_for_other_rows_than_a_pass_reads_are_refused(llama):
    with (
        pytest.raises(SiteError, match="edits for 1 rows and a pass over 3: want one edit a row"),
        apply_each(llama, (Add(vector_at(Site(0))),), torch.tensor([0])),
    ):
        logits_of(llama, TOKENS.expand(3, -1))
    assert n_hooks(llama) == 0


def test_edits_act_in_the_order_given_those_of_an_outer_block_first(model):
    vector = vector_at(Site(0))
    add, ablate = Add(vector), Ablate(vector)
    with apply(model, ablate, add):
        added_last = logits_of(model)
    with apply(model, ablate), apply(model, add):
        assert torch.equal(logits_of(model), added_last)
    with apply(model, add), apply(model, ablate):
        ablated_last = logits_of(model)
    with apply(model, ablate):
        torch.testing.assert_close(logits_of(model), ablated_last, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(added_last, ablated_last, atol=1e-2)


def test_a_block_may_be_entered_again_and_within_itself(llama):
    edits = one_of_each(where=AtPositions((1,)))
    with apply(llama, *edits):
        once = logits_at_places(llama)
        with apply(llama, *edits):
            twice = logits_at_places(llama)
        assert torch.equal(logits_at_places(llama), once)
    with apply(llama, *edits, *edits):
        assert torch.equal(logits_at_places(llama), twice)
    assert not torch.equal(once, twice)


def test_a_pass_that_does_not_say_what_a_gate_asks_is_refused_and_leaves_no_hook(llama):
    with (
        pytest.raises(SiteError, match=r"AtPositions\(positions=\(0,\)\) needs to know where tokens stand"),
        apply(llama, Add(vector_at(Site(0)), where=AtPositions((0,)))),
    ):
        logits_of(llama)
    with (
        pytest.raises(SiteError, match=r"InPrompt\(\) needs to know where prompts end"),
        apply(llama, Add(vector_at(Site(0)), where=InPrompt())),
    ):
        logits_at_places(llama)
    assert n_hooks(llama) == 0


def test_what_one_pass_read_is_not_taken_for_the_next_also_after_one_that_was_left_early(llama):
    trunk, mask = llama.network.model, torch.ones_like(TOKENS).bool()
    with apply(llama, Add(vector_at(Site(0)), where=AtPositions((0,)))):
        for read in (logits_at_places, lambda model: capture(model, TOKENS, mask, [Site(0)])):
            read(llama)
            with pytest.raises(SiteError, match="a block that ran outside a call of tiny-llama-5's network"):
                trunk(TOKENS)


def test_gradients_pass_through_every_edit(llama):
    edits = one_of_each(where=AtPositions((1, 3)))
    embedded = llama.anatomy.embed(TOKENS).requires_grad_()
    with apply(llama, *edits):
        llama.network(inputs_embeds=embedded, attention_mask=torch.ones_like(TOKENS)).logits.sum().backward()
    assert embedded.grad.isfinite().all()
    assert (embedded.grad != 0).any(dim=-1).all()


@pytest.mark.parametrize("width", [8, 64])
def test_an_sae_of_another_width_is_refused(llama, width):
    with (
        pytest.raises(ModelError, match=f"reads streams of width {width}"),
        apply(llama, ClampFeature(sae_at(Site(0), width), 0, 1.0)),
    ):
        pass
    assert n_hooks(llama) == 0


def test_edits_that_say_nothing_definite_are_refused():
    vector, sae = vector_at(Site(0)), sae_at(Site(0))
    other = vector_at(Site(0), seed=1)
    with pytest.raises(VectorError, match="an edit with dose nan: want a finite number"):
        Add(vector, dose=float("nan"))
    with pytest.raises(VectorError, match="an edit with dose inf"):
        AddScaled(vector, coefficient(), float("inf"))
    for elsewhere in (vector_at(Site(0), Site(1)), vector_at(Site(0), width=8)):
        with pytest.raises(VectorError, match=r"streams of width 32, and a vector of width .*: want a vector of that"):
            AddScaled(elsewhere, coefficient())
    with pytest.raises(VectorError, match="a coefficient's network holds NaN"):
        replace(coefficient(), b_out=torch.tensor(float("nan")))
    with pytest.raises(VectorError, match="an edit with value inf"):
        ClampFeature(sae, 0, float("inf"))
    with pytest.raises(VectorError, match="an edit with angle nan"):
        Rotate(vector, other, float("nan"))
    for feature in (-1, 6):
        with pytest.raises(VectorError, match=f"feature {feature} of SAE random, which has 6: want 0 to 5"):
            ClampFeature(sae, feature, 1.0)
    with pytest.raises(VectorError, match=r"the direction at blocks\.0\.hook_resid_post is zero"):
        Ablate(vector - vector)
    for parallel in (vector, -vector, vector * 1e-3, vector * 0.0):
        with pytest.raises(VectorError, match=r"the vectors lie on one line at blocks\.0\.hook_resid_post"):
            Rotate(vector, parallel, 1.0)
    for elsewhere in (vector_at(Site(1)), vector_at(Site(0), width=8)):
        with pytest.raises(VectorError, match="want the same sites of one model"):
            Rotate(vector, elsewhere, 1.0)
