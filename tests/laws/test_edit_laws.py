"""What holds of every edit: algebra of vectors, projections and rotations, and of the gates that edits stand behind."""

from math import acos, e, log, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import StandardSAE, StandardSAEConfig

from lab.models.tiny import tiny_model
from probes.capture.capture import capture
from probes.capture.site import Site
from probes.sae.dictionary import Sae
from steering.edit import Ablate, Add, AddScaled, ClampFeature, Rotate, apply
from steering.gate import AtPositions, CompletionStart, InCompletion, InPrompt, WhileWriting
from steering.vector import Coefficient, SteeringVector, rotation

SITE, D_MODEL, D_SAE = Site(0), 32, 12
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
N_TOKENS, N_PROMPT = 8, 5
MASK = torch.ones_like(TOKENS).bool()

seeds = st.integers(0, 10_000)
numbers = st.floats(-4, 4)
angles = st.floats(-7, 7)
SHUT = [
    CompletionStart(0),
    AtPositions(()),
    AtPositions((N_TOKENS,)),
    AtPositions((-N_PROMPT - 1,)),
    WhileWriting(()),
    WhileWriting((N_TOKENS,)),
]


@pytest.fixture(scope="module")
def model():
    """In double precision, so that laws hold to many digits; passes stop after the first block."""
    model = tiny_model("llama", seed=5)
    model.network.double()
    return model


@pytest.fixture(scope="module")
def sae():
    coder = StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE, dtype="float64"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in coder.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.5)
    return Sae(name="random", site=SITE, coder=coder.requires_grad_(False), trained_on=None, digest="random")


def vector(seed, norm=3.0) -> SteeringVector:
    noise = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return SteeringVector({SITE: norm * noise / noise.norm()}, {SITE: 1.0}, "")


def coefficient(seed, size=1.0, b_out=0.0) -> Coefficient:
    """A network whose output leaves `b_out` by `size`, and not at all where that is 0."""
    generator = torch.Generator().manual_seed(seed)
    W_in, b_in, w_out = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((D_MODEL, 5), (5,), (5,))
    )
    return Coefficient(W_in=W_in, b_in=b_in, w_out=size * w_out, b_out=torch.tensor(b_out, dtype=torch.float64))


def some_edits(seed, sae, **where):
    first, second = vector(seed), vector(seed + 20_000)
    return (
        Add(first, **where),
        AddScaled(second, coefficient(seed, size=0.01), **where),
        Ablate(first, **where),
        ClampFeature(sae, seed % D_SAE, 2.0, **where),
        Rotate(first, second, 1.0, **where),
    )


def stream(model, *edits):
    """The residual stream of a text of `N_PROMPT` tokens and a completion, under edits."""
    with apply(model, *edits, n_prompt=torch.tensor([N_PROMPT])):
        return capture(model, TOKENS, MASK, [SITE])[SITE]


def assert_close(one, other, atol=1e-10):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


@settings(max_examples=12)
@given(seeds, numbers, numbers)
def test_a_scaled_vector_at_a_dose_is_the_vector_at_their_product(model, seed, scale, dose):
    v = vector(seed)
    product = stream(model, Add(v * (scale * dose)))
    # Vectors are kept in single precision.
    assert_close(stream(model, Add(v * scale, dose=dose)), product, atol=1e-5)
    assert_close(stream(model, Add(v, dose=scale * dose)), product, atol=1e-5)


@settings(max_examples=12)
@given(seeds)
def test_a_vector_less_itself_is_the_identity(model, seed):
    v = vector(seed)
    assert torch.equal(stream(model, Add(v - v)), stream(model))
    assert_close(stream(model, Add(v), Add(-v)), stream(model))


@settings(max_examples=12)
@given(seeds, seeds, numbers, numbers)
def test_the_sum_of_edits_is_the_edit_of_the_sum_in_any_order(model, one, other, a, b):
    v, w = vector(one), vector(other)
    together = stream(model, Add(v * a + w * b))
    assert_close(stream(model, Add(v, a), Add(w, b)), together, atol=1e-5)
    assert_close(stream(model, Add(w, b), Add(v, a)), together, atol=1e-5)


@settings(max_examples=12)
@given(seeds, numbers)
def test_a_vector_with_coefficient_one_is_the_vector_added(model, seed, dose):
    v, one = vector(seed), coefficient(seed, size=0.0, b_out=log(e - 1))
    assert_close(stream(model, AddScaled(v, one, dose)), stream(model, Add(v, dose)), atol=1e-5)


@settings(max_examples=12)
@given(seeds, numbers)
def test_a_coefficient_says_for_each_token_how_much_of_the_vector_is_added(model, seed, dose):
    v, network = vector(seed), coefficient(seed, size=0.1)
    plain = stream(model)
    h, d = plain[0].double(), v.directions[SITE].double()
    hidden = h @ network.W_in + network.b_in
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    c = torch.log1p(torch.exp(hidden @ network.w_out))
    # The dose is multiplied into the direction in single precision.
    assert_close(
        stream(model, AddScaled(v, network, dose))[0] - h, dose * c[:, None] * d, atol=1e-6 * float(c.max()) * 12
    )
    assert torch.equal(stream(model, AddScaled(v, network, 0.0)), plain)


@settings(max_examples=12)
@given(seeds, st.floats(0.01, 4), st.sampled_from([-1, 1]))
def test_an_ablation_is_a_projection_onto_what_is_orthogonal_to_the_direction(model, seed, scale, sign):
    v = vector(seed)
    once = stream(model, Ablate(v))
    assert_close(stream(model, Ablate(v), Ablate(v)), once)
    assert_close(stream(model, Ablate(v * (sign * scale))), once, atol=1e-5)
    assert_close(stream(model, Add(v, scale), Ablate(v)), once, atol=1e-5)
    direction = v.directions[SITE].double()
    assert_close(once @ direction, torch.zeros(1, N_TOKENS, dtype=torch.float64))
    # What is taken away lies along the direction and nowhere else.
    taken = stream(model) - once
    assert_close(taken, (taken @ direction)[..., None] * direction / (direction @ direction))


@settings(max_examples=12)
@given(seeds, angles, angles)
def test_rotations_in_a_plane_add_their_angles(model, seed, a, b):
    v, w = vector(seed), vector(seed + 20_000)
    assert_close(stream(model, Rotate(v, w, a), Rotate(v, w, b)), stream(model, Rotate(v, w, a + b)))
    assert_close(stream(model, Rotate(v, w, a), Rotate(w, v, a)), stream(model))
    assert_close(stream(model, Rotate(v, w, a + 2 * pi)), stream(model, Rotate(v, w, a)))
    assert torch.equal(stream(model, Rotate(v, w, 0.0)), stream(model))


@settings(max_examples=12)
@given(seeds, angles)
def test_a_rotation_keeps_the_norm_and_all_that_is_orthogonal_to_its_plane(model, seed, angle):
    v, w = vector(seed), vector(seed + 20_000)
    plain, turned = stream(model), stream(model, Rotate(v, w, angle))
    assert_close(turned.norm(dim=-1), plain.norm(dim=-1))
    off_plane = (Ablate(v), Ablate(SteeringVector({SITE: orthogonal(v, w)}, {SITE: 1.0}, "")))
    assert_close(stream(model, Rotate(v, w, angle), *off_plane), stream(model, *off_plane), atol=1e-5)


def orthogonal(v, w):
    start, end = v.directions[SITE].double(), w.directions[SITE].double()
    return end - (end @ start) / (start @ start) * start


@settings(max_examples=12)
@given(seeds, seeds.filter(lambda seed: seed > 0))
def test_a_rotation_by_the_angle_between_two_directions_takes_the_one_to_the_other(model, seed, apart):
    start, end = (vector(number).directions[SITE] for number in (seed, seed + apart))
    angle = acos(float(start.double() @ end.double() / (start.double().norm() * end.double().norm())))
    turned = rotation(model, start, end, angle)(start.double()[None, None])[0, 0]
    assert_close(turned / turned.norm(), end.double() / end.double().norm(), atol=1e-6)


@settings(max_examples=12)
@given(st.integers(0, D_SAE - 1), st.integers(0, N_TOKENS - 1))
def test_a_feature_set_to_its_own_value_leaves_the_stream_as_it_is(model, sae, feature, position):
    plain = stream(model)
    own = float(sae.encode(plain)[0, position, feature])
    assert torch.equal(stream(model, ClampFeature(sae, feature, own, where=AtPositions((position,)))), plain)


@settings(max_examples=12)
@given(st.integers(0, D_SAE - 1), numbers, numbers)
def test_a_feature_set_higher_moves_the_stream_along_its_decoder_row(model, sae, feature, a, b):
    moved = stream(model, ClampFeature(sae, feature, a)) - stream(model, ClampFeature(sae, feature, b))
    assert_close(moved, ((a - b) * sae.W_dec[feature]).expand_as(moved))


@settings(max_examples=12)
@given(seeds, st.sampled_from(SHUT))
def test_a_gate_that_is_never_open_is_the_identity(model, sae, seed, gate):
    plain = stream(model)
    for edit in some_edits(seed, sae, where=gate):
        assert torch.equal(stream(model, edit), plain)


@settings(max_examples=6)
@given(seeds)
def test_prompt_and_completion_together_are_everywhere(model, sae, seed):
    edits = zip(
        some_edits(seed, sae),
        some_edits(seed, sae, where=InPrompt()),
        some_edits(seed, sae, where=InCompletion()),
        strict=True,
    )
    for everywhere, in_prompt, in_completion in edits:
        assert torch.equal(stream(model, in_prompt, in_completion), stream(model, everywhere))
        assert not torch.equal(stream(model, in_prompt), stream(model, everywhere))


@settings(max_examples=12)
@given(seeds, st.lists(st.integers(0, N_TOKENS - 1), unique=True), st.randoms())
def test_what_a_gate_lets_through_is_the_edit_there_and_nothing_elsewhere(model, sae, seed, positions, random):
    # Each token may be named from the front or, in the prompt, from the prompt's end.
    names = [p - N_PROMPT if p < N_PROMPT and random.random() < 0.5 else p for p in positions]
    plain = stream(model)
    here = torch.isin(torch.arange(N_TOKENS), torch.tensor(positions))[None, :, None]
    for gated, everywhere in zip(
        some_edits(seed, sae, where=AtPositions(tuple(names))), some_edits(seed, sae), strict=True
    ):
        assert torch.equal(stream(model, gated), torch.where(here, stream(model, everywhere), plain))


@pytest.mark.parametrize(
    ("gate", "positions"),
    [
        (InPrompt(), range(N_PROMPT)),
        (InCompletion(), range(N_PROMPT, N_TOKENS)),
        (CompletionStart(2), (N_PROMPT, N_PROMPT + 1)),
        (CompletionStart(99), range(N_PROMPT, N_TOKENS)),
        (WhileWriting((0, 2)), (N_PROMPT - 1, N_PROMPT + 1)),
    ],
)
def test_every_gate_is_a_choice_of_positions(model, sae, gate, positions):
    for gated, placed in zip(
        some_edits(1, sae, where=gate), some_edits(1, sae, where=AtPositions(tuple(positions))), strict=True
    ):
        assert torch.equal(stream(model, gated), stream(model, placed))
