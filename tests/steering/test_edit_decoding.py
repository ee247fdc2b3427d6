"""Edits behind gates write the same texts with and without a cache, alone and in a padded batch, as slow passes do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from lab.models.anatomy import find_anatomy
from lab.models.load import Model
from lab.models.tiny import tiny_model, tiny_network
from lab.sampling.decoder import Batch, CachedDecoder, left_padded
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY
from lab.tasks.problem import Problem
from probes.capture.site import Site, hook_site
from probes.sae.dictionary import Sae
from steering.edit import Ablate, Add, ClampFeature, Rotate, apply, apply_each
from steering.gate import EVERYWHERE, AtPositions, CompletionStart, Everywhere, InCompletion, InPrompt, WhileWriting
from steering.vector import SteeringVector
from tests.kinds import one_always

WIDTH, N_NEW = 32, 8
PROMPTS = ("a", "what is 2+3?", "no", "chains of unequal length")
PROBLEMS = [
    Problem(id=f"p{index}", prompt=prompt, answer="", family="all", source="test")
    for index, prompt in enumerate(PROMPTS)
]
GATES = [
    EVERYWHERE,
    InPrompt(),
    InCompletion(),
    CompletionStart(3),
    AtPositions((0, 2, 13)),
    AtPositions((-1, -2)),
    WhileWriting((0, 1, 5)),
]
SITES = (Site(0), Site(1, "resid_pre"))
KINDS = ("add", "ablate", "clamp", "rotate")


def vector_at(*sites, seed=0, norm=6.0) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    noise = {site: torch.randn(WIDTH, generator=generator) for site in sites}
    return SteeringVector({site: norm * row / row.norm() for site, row in noise.items()}, dict.fromkeys(sites, 1.0), "")


def random_sae(site, dtype="float32") -> Sae:
    coder = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=12, dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in coder.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return Sae(name="random", site=site, coder=coder.requires_grad_(False), trained_on=None, digest="random")


def edit_of(kind, gate=EVERYWHERE, sites=SITES):
    match kind:
        case "add":
            return Add(vector_at(*sites), dose=0.7, where=gate)
        case "ablate":
            return Ablate(vector_at(*sites, seed=1), where=gate)
        case "clamp":
            return ClampFeature(random_sae(sites[0]), 7, 9.0, where=gate)
        case "rotate":
            return Rotate(vector_at(*sites, seed=2), vector_at(*sites, seed=3), 2.0, where=gate)


def acts(gate, position, n_prompt) -> bool:
    """Whether an edit acts on the token at `position` of a text, as one would say it."""
    match gate:
        case Everywhere():
            return True
        case InPrompt():
            return position < n_prompt
        case InCompletion():
            return position >= n_prompt
        case CompletionStart(n_tokens=n_tokens):
            return position - n_prompt in range(n_tokens)
        case AtPositions(positions=positions):
            return position in [number if number >= 0 else n_prompt + number for number in positions]
        case WhileWriting(steps=steps):
            return position in [n_prompt - 1 + step for step in steps]


def by_definition(edit, site, h):
    """One token's stream after `edit`, in double precision."""
    h = h.double()
    match edit:
        case Add(vector=vector, dose=dose):
            return h + dose * vector.directions[site].double()
        case Ablate(vector=vector):
            v = vector.directions[site].double()
            return h - torch.outer(v, v) @ h / (v @ v)
        case Rotate(vector_from=start, vector_to=end, angle=angle):
            basis = torch.linalg.qr(torch.stack([start.directions[site], end.directions[site]], dim=1).double()).Q
            # QR leaves signs open.
            e, f = (
                basis.T
                * torch.stack([start.directions[site], end.directions[site]])
                .double()
                .mul(basis.T)
                .sum(dim=1, keepdim=True)
                .sign()
            )
            return torch.matrix_exp(angle * (torch.outer(f, e) - torch.outer(e, f))) @ h
        case ClampFeature(sae=sae, feature=feature, value=value):
            was = sae.encode(h.float())
            wanted = was.clone()
            wanted[feature] = value
            return h + (sae.decode(wanted) - sae.decode(was)).double()


@torch.no_grad()
def last_logits(model, text, n_prompt, edits):
    """One full pass over one text, without padding, cache, batch or gates: hooks at the positions that are meant."""
    handles = []
    for edit in edits:
        for site in (edit.sae.site,) if isinstance(edit, ClampFeature) else edit_vector(edit).sites:

            def change(stream, edit=edit, site=site):
                stream = stream.clone()
                for position in range(len(text)):
                    if acts(edit.where, position, n_prompt):
                        stream[0, position] = by_definition(edit, site, stream[0, position])
                return stream

            handles.append(hook_site(model, site, change))
    try:
        return model.network(torch.tensor([text]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def edit_vector(edit):
    return edit.vector_from if isinstance(edit, Rotate) else edit.vector


def written_slowly(model, prompt, *edits, ends=frozenset()):
    text, written = list(model.tokenizer(prompt).input_ids), []
    while len(written) < N_NEW and not (model.ends | ends) & set(written):
        written.append(int(last_logits(model, text + written, len(text), edits).argmax()))
    return tuple(written)


def written(model, *edits, problems=PROBLEMS, batch_size=256, ends=frozenset()):
    decoding = replace(GREEDY, max_new_tokens=N_NEW)
    with apply(model, *edits):
        traces = sample(replace(model, ends=model.ends | ends), problems, 1, decoding, seed=0, batch_size=batch_size)
    return [trace.tokens for trace in traces]


@pytest.fixture(scope="module")
def llama() -> Model:
    return tiny_model("llama", seed=5)


@pytest.fixture(scope="module")
def plain_texts(llama):
    return written(llama)


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_in_a_padded_batch_equals_slow_passes_over_each_text_alone(llama, plain_texts, kind, gate):
    edit = edit_of(kind, gate)
    texts = written(llama, edit)
    assert texts == [written_slowly(llama, prompt, edit) for prompt in PROMPTS]
    assert texts != plain_texts


@pytest.mark.parametrize("family", one_always(["gemma2", "qwen3", "gpt2", "gpt_neox"]))
def test_edits_behind_several_gates_act_together_in_every_family(family):
    model = tiny_model(family, seed=5)
    sites = (Site(1, "resid_pre"), Site(1))
    edits = [edit_of(kind, gate, sites) for kind, gate in zip(KINDS, GATES[1:5], strict=True)]
    plain = written(model)
    texts = written(model, *edits)
    assert texts == [written_slowly(model, prompt, *edits) for prompt in PROMPTS]
    assert texts != plain
    with apply(model, *edits[:2]):
        assert written(model, *edits[2:]) == texts


def test_rows_that_leave_the_batch_and_the_size_of_the_batch_change_nothing(llama):
    edits = (edit_of("add", CompletionStart(4)), edit_of("rotate", AtPositions((-1, 3))))
    # Rows end at different steps.
    ends = frozenset(text[place] for place, text in zip((1, 3), written(llama, *edits), strict=False))
    texts = written(llama, *edits, ends=ends)
    assert len({len(text) for text in texts}) > 1
    assert texts == written(llama, *edits, ends=ends, batch_size=1)
    assert texts == [written_slowly(llama, prompt, *edits, ends=ends) for prompt in PROMPTS]


@torch.no_grad()
@pytest.mark.parametrize("gate", GATES, ids=str)
def test_full_passes_over_padded_texts_agree_with_each_alone_once_told_where_prompts_end(llama, gate):
    texts = [[*range(40, 40 + n_tokens)] for n_tokens in (3, 9, 5)]
    n_prompt = torch.tensor([2, 6, 5])
    edits = [edit_of(kind, gate) for kind in KINDS]
    padded = left_padded(llama, texts)
    with apply(llama, *edits, n_prompt=n_prompt):
        together = llama.network(input_ids=padded.tokens, attention_mask=padded.mask.long(), use_cache=False).logits
    for row, text in enumerate(texts):
        alone = last_logits(llama, text, int(n_prompt[row]), edits)
        torch.testing.assert_close(together[row, -1], alone, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_networks_own_generation_writes_the_same_once_told_where_prompts_end(llama, use_cache):
    edits = [edit_of(kind, gate) for kind, gate in zip(KINDS, GATES[2:6], strict=True)]
    ids = [llama.tokenizer(prompt).input_ids for prompt in PROMPTS]
    padded = left_padded(llama, ids)
    with apply(llama, *edits, n_prompt=torch.tensor([len(prompt) for prompt in ids])):
        texts = llama.network.generate(
            padded.tokens,
            attention_mask=padded.mask.long(),
            max_new_tokens=N_NEW,
            do_sample=False,
            use_cache=use_cache,
        )
    for row, prompt in enumerate(PROMPTS):
        slowly = written_slowly(llama, prompt, *edits)
        assert tuple(texts[row, padded.tokens.shape[1] :].tolist())[: len(slowly)] == slowly


@torch.no_grad()
def test_rows_with_edits_and_gates_of_their_own_write_what_each_writes_alone(llama):
    edits = (edit_of("add", InPrompt()), edit_of("ablate"), edit_of("clamp", WhileWriting((0, 3))), edit_of("rotate"))
    chosen = torch.tensor([2, 0, 3, 1])
    ids = [llama.tokenizer(prompt).input_ids for prompt in PROMPTS]
    padded = left_padded(llama, ids)
    batch = Batch(padded.tokens, padded.mask, torch.arange(4), np.arange(4, dtype=np.uint64))
    texts = [[], [], [], []]
    with apply_each(llama, edits, chosen):
        rows = CachedDecoder(llama, batch)
        for _ in range(N_NEW):
            tokens = rows.propose().logits.argmax(dim=-1)
            for text, token in zip(texts, tokens.tolist(), strict=True):
                text.append(token)
            rows.append(tokens)
    for prompt, text, index in zip(PROMPTS, texts, chosen.tolist(), strict=True):
        slowly = written_slowly(llama, prompt, edits[index])
        assert tuple(text[: len(slowly)]) == slowly


@torch.no_grad()
@pytest.mark.parametrize("gate", [EVERYWHERE, CompletionStart(2), AtPositions((-1, 1))], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_agrees_with_double_precision_to_its_last_digit(kind, gate):
    network = tiny_network("llama", seed=5).bfloat16()
    model = replace(tiny_model("llama", seed=5), network=network, anatomy=find_anatomy(network))
    site, seen, text, n_prompt = Site(0), [], list(b"what is 2+3?"), 7
    edit = edit_of(kind, gate, (site,))
    watching = hook_site(model, Site(1, "resid_pre"), lambda stream: seen.append(stream[0]))
    network(torch.tensor([text]))
    with apply(model, edit, n_prompt=torch.tensor([n_prompt])):
        network(torch.tensor([text]), position_ids=torch.arange(len(text))[None])
    watching.remove()
    plain, edited = seen
    assert edited.dtype == torch.bfloat16
    for position, (before, after) in enumerate(zip(plain, edited, strict=True)):
        if acts(gate, position, n_prompt):
            # Half a step of the eight bits of bfloat16, or a whole one for a vector that is rounded first.
            torch.testing.assert_close(after.double(), by_definition(edit, site, before), rtol=2**-8, atol=2**-6)
        else:
            assert torch.equal(after, before)


@torch.no_grad()
def test_half_precision_reads_the_same_with_a_cache_within_its_tolerance():
    network = tiny_network("llama", seed=5).bfloat16()
    model = replace(tiny_model("llama", seed=5), network=network, anatomy=find_anatomy(network))
    edits = [edit_of(kind, gate) for kind, gate in zip(KINDS, GATES[2:6], strict=True)]
    text = list(b"what is 2+3?")
    batch = Batch(torch.tensor([text[:7]]), torch.ones(1, 7).bool(), torch.tensor([0]), np.zeros(1, dtype=np.uint64))
    with apply(model, *edits):
        rows = CachedDecoder(model, batch)
        for token in text[7:]:
            rows.append(torch.tensor([token]))
    with apply(model, *edits, n_prompt=torch.tensor([7])):
        whole = network(torch.tensor([text]), position_ids=torch.arange(len(text))[None]).logits[:, -1]
    logits = rows.propose().logits
    torch.testing.assert_close(logits, whole, rtol=0, atol=0.05 * float(whole.std()))
