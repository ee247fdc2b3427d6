"""What both methods are fitted on, by hand; the fits lower the losses they are about; equal work is equal."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from lab.records.errors import EstimateError, VectorError
from lab.sampling.trace import TRACES
from probes.capture.site import Site
from steering.edit import AddScaled, apply
from steering.fits.fit import Example
from steering.fits.gradient import read_examples
from steering.gate import AtPositions
from steering.published_hybrids.fit_published import (
    example_of,
    fit_constant,
    fit_published,
    fit_scaled,
    segment_examples,
)
from steering.published_hybrids.material import Material, Moment, PublishedSettings, material
from steering.published_hybrids.published_hybrids import FittedOn

INPUT, OUTPUT = Site(1, "resid_pre"), Site(1)


@pytest.fixture(scope="module")
def read(context) -> Material:
    return material(context.pair, context.traces, context.problems, context.rule, OUTPUT)


@torch.no_grad()
def logits(model, tokens):
    """At every token of one text, by a whole pass of the network."""
    ids = torch.tensor([tokens])
    return model.network(ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)


def test_disagreements_are_the_tokens_that_the_base_would_not_have_written(context, read):
    found = []
    for text, row in enumerate(read.rows):
        greedy = logits(context.pair.base, read.tokens(text)).argmax(-1).tolist()
        for position in range(len(row.context), len(read.tokens(text))):
            if greedy[position - 1] != read.tokens(text)[position]:
                found.append(Moment(text, position))
    assert list(read.disagreements) == found
    assert any(moment.position == len(read.rows[moment.text].context) for moment in found)


def test_streams_are_the_tuned_models_at_the_token_before_and_surprise_is_the_bases(context, read):
    moment = read.disagreements[3]
    kept = {}
    handle = context.pair.tuned.anatomy.blocks[1].register_forward_hook(lambda _, __, out: kept.update(stream=out[0]))
    logits(context.pair.tuned, read.tokens(moment.text))
    handle.remove()
    torch.testing.assert_close(read.streams[3], kept["stream"][moment.position - 1], atol=1e-4, rtol=1e-4)
    rows = read.segments.segments.with_row_index("segment").filter(pl.col("text") == moment.text)
    base = logits(context.pair.base, read.tokens(moment.text))
    for segment, first, last in rows.select("segment", "first", "last").iter_rows():
        torch.testing.assert_close(
            read.segments.means[segment], kept["stream"][first : last + 1].mean(0), atol=1e-4, rtol=1e-4
        )
        nats = [-float(base[place - 1, read.tokens(moment.text)[place]]) for place in range(first, last + 1)]
        assert read.surprise[segment] == pytest.approx(sum(nats) / len(nats), rel=1e-3)


def test_an_example_acts_from_the_token_before_its_first_target_on(read):
    row = read.rows[0]
    n, tokens = len(row.context), read.tokens(0)
    whole = example_of(read, 0, n, len(tokens), None)
    assert whole == Example(tokens[:-1], n - 1, list(range(n - 1, len(tokens) - 1)), row.completion)
    some = example_of(read, 0, n, n + 4, frozenset({Moment(0, n + 2), Moment(0, n + 4), Moment(1, n)}))
    assert some == Example(tokens[: n + 3], n - 1, [n + 1], [tokens[n + 2]])
    assert example_of(read, 0, n, n + 4, frozenset()) is None


def test_segments_are_those_that_surprise_the_base_most_among_the_most_typical(context, published, read):
    taxonomy, spans = published.taxonomy, read.segments.segments
    category = int(taxonomy.category(read.segments.means).bincount().argmax())
    scores = taxonomy.scores(read.segments.means)
    members = [n for n in range(len(spans)) if int(scores[n].argmax()) == category]
    typical = sorted(members, key=lambda n: -float(scores[n, category]))[:8]
    wanted = sorted(typical, key=lambda n: -read.surprise[n])[:2]
    rows = spans.select("text", "first", "last").rows()
    assert segment_examples(read, taxonomy, category, None, 2) == [
        example_of(read, rows[n][0], rows[n][1], rows[n][2] + 1, None) for n in wanted
    ]
    assert len(members) > 8
    assert set(wanted) != set(typical[:2])


def test_p2_makes_the_tokens_that_the_base_would_not_write_likely(context, published, read):
    moments = list(enumerate(read.disagreements))[:20]
    category = published.taxonomy.category(read.streams).tolist()

    def loss(edits_of) -> float:
        """By whole passes over the text before each token; the edit acts at the last position."""
        total = 0.0
        for index, moment in moments:
            tokens = read.tokens(moment.text)
            with apply(context.pair.base, *edits_of(category[index], moment.position - 1)):
                total -= float(logits(context.pair.base, tokens[: moment.position])[-1, tokens[moment.position]])
        return total

    def edits_of(own, last):
        vector, coefficient = published.scaled.categories[own], published.scaled.coefficients[own]
        return (AddScaled(vector, coefficient, where=AtPositions((last,))),)

    assert loss(edits_of) < 0.5 * loss(lambda *_: ())


def test_p1_makes_likely_what_it_was_fitted_on_and_less_so_what_the_other_was(context, published, read):
    def loss(targets, fit) -> float:
        whole = [example_of(read, n, len(row.context), len(read.tokens(n)), targets) for n, row in enumerate(read.rows)]
        examples = [example for example in whole if example is not None]
        likelihood = read_examples(context.pair.base, INPUT, examples, batch_size=16)
        rows = torch.arange(len(examples))
        bias = torch.zeros(32) if fit is None else fit.bias.directions[INPUT]
        with torch.no_grad():
            return float(likelihood.losses(rows, bias.expand(len(rows), -1)).sum()) / likelihood.n_targets(rows)

    disagreements = frozenset(read.disagreements)
    everywhere = [loss(None, fit) for fit in (None, published.on_all_tokens, published.on_disagreements)]
    there = [loss(disagreements, fit) for fit in (None, published.on_disagreements, published.on_all_tokens)]
    assert everywhere[1] < min(everywhere[0], everywhere[2])
    assert there[1] < min(there[0], there[2])


def test_a_category_is_fitted_on_top_of_the_bias(context, published, read):
    """Its vector alone says less of its segments than with the bias below it."""
    fit = published.on_all_tokens
    category = int(published.taxonomy.category(read.segments.means).bincount().argmax())
    examples = segment_examples(read, published.taxonomy, category, None, 12)
    likelihood = read_examples(context.pair.base, INPUT, examples, batch_size=16)

    def loss(vector) -> float:
        with torch.no_grad():
            return float(
                likelihood.losses(torch.arange(len(examples)), vector.directions[INPUT].expand(len(examples), -1)).sum()
            )

    both = loss(fit.bias + fit.categories[category])
    assert both < min(loss(fit.bias), loss(fit.categories[category]))


def test_sites_are_the_input_and_the_output_of_the_named_block(published):
    assert published.on_all_tokens.bias.sites == published.on_disagreements.categories[0].sites == (INPUT,)
    assert {vector.sites for vector in published.scaled.categories} == {(OUTPUT,)}
    assert published.taxonomy.site == OUTPUT
    published = {28: 10, 32: 12, 48: 18, 64: 24}
    assert {n: PublishedSettings().layer(n) for n in published} == published
    assert PublishedSettings().layer(1) == 0
    assert PublishedSettings(depth=0.99).layer(4) == 3


def test_equal_arguments_give_equal_vectors_and_another_seed_others(context, read, published):
    once = replace(context.settings.bias, n_epochs=1)
    settings = replace(context.settings, bias=once, categories=once)

    def fits(seed):
        return fit_constant(
            context.pair.base, INPUT, read, published.taxonomy, FittedOn.ALL_TOKENS, settings, seed=seed
        )

    assert fits(0) == fits(0)
    assert fits(0).bias != fits(1).bias


def without_disagreements(read: Material) -> Material:
    return replace(read, disagreements=(), streams=read.streams[:0])


def test_nothing_to_fit_on_is_an_error_that_says_so(context, read, published):
    none = without_disagreements(read)
    with pytest.raises(VectorError, match="no token of the tuned model's traces to fit a bias on: the base would"):
        fit_constant(
            context.pair.base, INPUT, none, published.taxonomy, FittedOn.DISAGREEMENTS, context.settings, seed=0
        )
    with pytest.raises(VectorError, match="no disagreement to fit P2 on; draw more traces"):
        fit_scaled(context.pair.base, OUTPUT, none, published.taxonomy, context.settings, seed=0)
    with pytest.raises(VectorError, match="no trace of the tuned model"):
        material(context.pair, TRACES.frame([]), context.problems, context.rule, OUTPUT)
    many = replace(context.settings, n_categories=10_000)
    with pytest.raises(EstimateError, match="10000 categories of"):
        fit_published(context.pair, context.traces, context.problems, context.rule, many, seed=0)


def test_a_category_without_an_example_has_no_vector(context, read, published):
    alone = replace(read, disagreements=read.disagreements[:1], streams=read.streams[:1])
    fit = fit_constant(
        context.pair.base, INPUT, alone, published.taxonomy, FittedOn.DISAGREEMENTS, context.settings, seed=0
    )
    scaled = fit_scaled(context.pair.base, OUTPUT, alone, published.taxonomy, context.settings, seed=0)
    assert sum(norm > 0 for vector in fit.categories for norm in vector.norms.values()) <= 1
    assert [norm > 0 for vector in scaled.categories for norm in vector.norms.values()].count(True) == 1
    assert fit.bias.norms[INPUT] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_traces": 0}, "n_traces = 0: want at least 1"),
        ({"d_hidden": -1, "n_disagreements": 0}, "n_disagreements = 0, d_hidden = -1"),
        ({"depth": 1.0}, "a depth of 1: want a share of the blocks"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(VectorError, match=message):
        PublishedSettings(**wrong)
