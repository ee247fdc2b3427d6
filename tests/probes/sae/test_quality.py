"""Quality: SAEs whose figures are known without running anything, and a slow second way for one that is not."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import ModelError, StorageError
from probes.capture.site import hook_site
from probes.sae.architecture import is_held_out
from probes.sae.dictionary import load_sae, quality, recovered_interval
from probes.storage.store import shuffled

from .conftest import CPU, D_MODEL, SITES, jumprelu, made_texts, standard

SHARE = 0.3
EYE = torch.eye(D_MODEL)


@pytest.fixture(scope="module")
def stream(store):
    return torch.cat(list(shuffled(store, SITES[0], 64, seed=0, keep=lambda name: is_held_out(name, SHARE))))


def row(model, store, coder, out, **options):
    coder.save_model(out)
    sae = load_sae(out, device=CPU)
    return sae, quality(model, sae, store, held_out_share=SHARE, **options).row(0, named=True)


def test_an_sae_without_error_recovers_everything(model, store, stream, tmp_path):
    coder = standard(torch.cat([EYE, -EYE], dim=1), torch.cat([EYE, -EYE]), torch.zeros(D_MODEL))
    sae, found = row(model, store, coder, tmp_path / "sae")
    assert found["explained_variance"] == 1
    assert found["ce_spliced"] == pytest.approx(found["ce_clean"], abs=1e-6)
    assert found["ce_recovered"] == pytest.approx(1, abs=1e-4)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    # Every coordinate is above 0 or below it.
    assert found["l0"] == D_MODEL
    assert found["dead_share"] == 0
    assert (found["n_rows"], found["d_sae"], found["architecture"]) == (len(stream), 2 * D_MODEL, "standard")
    assert (found["sae"], found["site"]) == (sae.name, "blocks.1.hook_resid_post")


def test_an_sae_that_only_knows_the_mean_recovers_nothing(model, store, stream, tmp_path):
    zeros = torch.zeros(D_MODEL, 8)
    _, found = row(model, store, standard(zeros, zeros.T, stream.mean(dim=0)), tmp_path / "sae")
    assert found["explained_variance"] == pytest.approx(0, abs=1e-5)
    assert found["ce_spliced"] == pytest.approx(found["ce_ablated"], abs=1e-5)
    assert found["ce_recovered"] == pytest.approx(0, abs=1e-3)
    assert (found["l0"], found["dead_share"]) == (0, 1)


def test_a_slow_second_way_gives_the_same_figures(model, store, stream, tmp_path):
    coder = jumprelu()
    with torch.no_grad():
        coder.W_dec.mul_(0.2)
    sae, found = row(model, store, coder, tmp_path / "sae")
    decoded = sae.decode(sae.encode(stream))
    variance = (stream - stream.mean(dim=0)).square().sum()
    assert found["explained_variance"] == pytest.approx(
        float(1 - (decoded - stream).square().sum() / variance), rel=1e-5
    )
    assert found["l0"] == pytest.approx(float((sae.encode(stream) > 0).sum()) / len(stream))
    mean = stream.mean(dim=0)
    changes = (lambda x: x, lambda x: sae.decode(sae.encode(x)), lambda x: mean.expand_as(x))
    sums, n_tokens = [], 0
    for problem_id, _, prompt, completion in made_texts().iter_rows():
        if not is_held_out(problem_id, SHARE) or not completion:
            continue
        logs = []
        for change in changes:
            handle = hook_site(model, sae.site, change)
            with torch.no_grad():
                logits = model.network(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
            handle.remove()
            logs.append(logits[len(prompt) - 1 : -1].double().log_softmax(dim=-1))
        nats = [-float(log[range(len(completion)), completion].sum()) for log in logs]
        sums.append([*nats, float((logs[0].exp() * (logs[0] - logs[1])).sum())])
        n_tokens += len(completion)
    clean, spliced, ablated, divergence = np.sum(sums, axis=0) / n_tokens
    assert found["n_texts"] == len(sums)
    wanted = {"ce_clean": clean, "ce_spliced": spliced, "ce_ablated": ablated, "kl": divergence}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert found["ce_recovered"] == pytest.approx((ablated - spliced) / (ablated - clean), rel=1e-3)
    assert found["ce_recovered_low"] <= found["ce_recovered"] <= found["ce_recovered_high"]


def test_recovery_is_a_ratio_of_sums_over_texts():
    # (20 + 12) - (11 + 8) = 13 of (20 + 12) - (10 + 6) = 16.
    sums = np.array([[10.0, 11.0, 20.0], [6.0, 8.0, 12.0]])
    both = recovered_interval(sums, pl.Series(["a", "b"]), seed=0)
    assert both.value == pytest.approx(13 / 16)
    # The problems alone give 9 / 10 and 4 / 6, and a resample may have either twice.
    assert (both.low, both.high) == (pytest.approx(4 / 6), pytest.approx(9 / 10))


def test_texts_of_one_problem_are_resampled_together():
    sums = np.array([[10.0, 11.0, 20.0], [6.0, 8.0, 12.0]])
    one = recovered_interval(sums, pl.Series(["a", "a"]), seed=0)
    assert one.value == pytest.approx(13 / 16)
    assert np.isnan([one.low, one.high]).all()


def test_nothing_to_recover_is_undefined():
    assert np.isnan(recovered_interval(np.array([[2.0, 3.0, 2.0]]), pl.Series(["a"]), seed=0).value)


def test_fewer_texts_may_be_read_and_are_drawn_by_the_seed(model, store, tmp_path):
    _, found = row(model, store, jumprelu(), tmp_path / "sae", n_texts=3)
    assert found["n_texts"] == 3
    again, other = (row(model, store, jumprelu(), tmp_path / "sae", n_texts=3, seed=seed)[1] for seed in (0, 1))
    assert again == found
    assert other["ce_clean"] != found["ce_clean"]
    assert other["explained_variance"] == found["explained_variance"]


def test_no_held_out_problem_is_an_error(model, store, tmp_path):
    jumprelu().save_model(tmp_path / "sae")
    with pytest.raises(StorageError, match="has 0 activations and 0 texts of held-out problems"):
        quality(model, load_sae(tmp_path / "sae", device=CPU), store, held_out_share=0.0)


def test_another_model_or_width_is_refused(model, store, tmp_path):
    jumprelu().save_model(tmp_path / "sae")
    sae = load_sae(tmp_path / "sae", device=CPU)
    with pytest.raises(StorageError, match="want that very model"):
        quality(tiny_model("llama", seed=6, n_layers=3), sae, store, held_out_share=SHARE)
    jumprelu(d_model=16).save_model(tmp_path / "narrow")
    with pytest.raises(ModelError, match="width 16"):
        quality(model, load_sae(tmp_path / "narrow", device=CPU), store, held_out_share=SHARE)
    with pytest.raises(ModelError, match="want an SAE of this model"):
        quality(model, replace(load_sae(tmp_path / "narrow", device=CPU), name="x"), store, held_out_share=SHARE)
