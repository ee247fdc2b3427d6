"""Training: SAELens' steps on the activations of problems that are not held out, and nothing else."""

import contextlib
import io
import os
from dataclasses import replace

import pytest
import torch
from sae_lens import SAE, SAETrainer
from safetensors.torch import load_file, save_file

from lab.records.errors import ModelError, SiteError, StorageError
from lab.records.provenance import file_digest, provenance
from lab.records.tables import read_table
from probes.capture.site import Site
from probes.sae import train as train_module
from probes.sae.architecture import BatchTopK, JumpReLU, Matryoshka, Standard, TopK, Training, count_rows, is_held_out
from probes.sae.dictionary import load_sae, made_by
from probes.sae.train import train_sae
from probes.storage.store import INDEX, shuffled, write_manifest

from .conftest import CPU, SITES, TRAINING, filled, recipe

ARCHITECTURES = [TopK(6), BatchTopK(6), Matryoshka(6, (8, 24)), JumpReLU(0.5), Standard(2.0)]
MADE_BY = provenance("sae", {}, {}, device="cpu", dtype="float32", seed=0)


def trained(store, wanted, out, **options):
    return train_sae(store, wanted, out, MADE_BY, device=CPU, **options)


def held_out_rows(store):
    return torch.cat(list(shuffled(store, SITES[0], 64, seed=0, keep=lambda name: is_held_out(name, 0.3))))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_what_is_saved_is_what_saelens_trainer_learns_and_saves(architecture, store, tmp_path, monkeypatch):
    wanted = recipe(architecture)
    sae = trained(store, wanted, tmp_path / "ours")

    class WholeFit(SAETrainer):
        """Runs SAELens' own loop in the place of the first step."""

        def step(self, batch):
            self.step = super().step
            factor = self.activation_scaler.scaling_factor
            self.data_provider = train_module.chain([batch], self.data_provider)
            with contextlib.redirect_stderr(io.StringIO()):
                self.fit()
            # The caller folds as well.
            self.sae.fold_activation_norm_scaling_factor(1 / factor)

    monkeypatch.setattr(train_module, "SAETrainer", WholeFit)
    theirs = trained(store, wanted, tmp_path / "theirs")
    stream = held_out_rows(store)
    assert sae.encode(stream).count_nonzero() > 0
    torch.testing.assert_close(sae.encode(stream), theirs.encode(stream), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.W_dec, theirs.W_dec, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_saelens_opens_it_and_reads_streams_alike(architecture, store, tmp_path):
    sae = trained(store, recipe(architecture), tmp_path / "sae")
    theirs, stream = SAE.load_from_disk(tmp_path / "sae"), held_out_rows(store)
    features = sae.encode(stream)
    assert torch.equal(features, theirs.encode(stream))
    assert torch.equal(sae.decode(features), theirs.decode(features))
    assert torch.equal(sae.decode(features), features @ sae.W_dec + sae.coder.b_dec)
    saved = theirs.cfg.metadata
    assert (saved.hook_name, saved.model_name) == ("blocks.1.hook_resid_post", store.plan.model)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_it_learns(architecture, store, tmp_path):
    def error(steps, name):
        training = Training(n_tokens=steps * 32, batch_size=32, held_out_share=0.3, lr=1e-2)
        sae, stream = trained(store, recipe(architecture, training=training), tmp_path / name), held_out_rows(store)
        return float((sae.decode(sae.encode(stream)) - stream).square().mean() / stream.var(dim=0).mean())

    assert error(150, "long") < 0.7 * error(1, "short")


def test_it_says_where_it_came_from(store, tmp_path):
    sae = trained(store, recipe(Matryoshka(6, (8, 24))), tmp_path / "sae")
    assert sae.trained_on == store.plan.model_digest
    assert sae.architecture == "matryoshka:6:8,24"
    assert sae.site == SITES[0]
    assert made_by(tmp_path / "sae") == MADE_BY


def test_equal_inputs_give_equal_bytes_and_another_seed_others(store, tmp_path, files):
    wanted = recipe(BatchTopK(6))
    other = recipe(BatchTopK(6), training=Training(n_tokens=640, batch_size=32, held_out_share=0.3, seed=1))
    for name, chosen in (("one", wanted), ("again", wanted), ("other", other)):
        trained(store, chosen, tmp_path / name)
    one, again, different = (files(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert one["sae_weights.safetensors"] != different["sae_weights.safetensors"]


def test_no_global_generator_is_moved_and_nothing_is_printed(store, tmp_path, capfd):
    before = torch.get_rng_state()
    trained(store, recipe(TopK(6)), tmp_path / "sae")
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_held_out_problems_are_never_seen(model, tmp_path, files):
    store = filled(model, tmp_path / "store")
    trained(store, recipe(TopK(6)), tmp_path / "before")
    for number in range(len(store.portions)):
        tensors = load_file(store.shard(number))
        index = read_table(store.path / "index" / f"{number:05d}.parquet", INDEX)
        mask = torch.tensor([is_held_out(problem_id, 0.3) for problem_id in index["problem_id"]])
        save_file(
            {name: rows.masked_fill(mask[:, None], torch.nan) for name, rows in tensors.items()}, store.shard(number)
        )
    now = replace(store, files={name: file_digest(store.path / name) for name in store.files})
    write_manifest(now)
    trained(now, recipe(TopK(6)), tmp_path / "after")
    assert held_out_rows(store).isnan().all()
    assert files(tmp_path / "before") == files(tmp_path / "after")


def test_a_store_in_bfloat16_trains_too(model, tmp_path):
    store = filled(model, tmp_path / "store", stored="bfloat16")
    sae = trained(store, recipe(TopK(6)), tmp_path / "sae")
    assert sae.dtype == torch.float32
    assert ((sae.encode(held_out_rows(store)) > 0).sum(dim=-1) <= 6).all()


def test_progress_adds_up(store, tmp_path):
    told = []
    trained(store, recipe(TopK(6)), tmp_path / "sae", on_progress=lambda n, total: told.append((n, total)))
    assert sum(n for n, _ in told) == TRAINING.n_tokens
    assert {total for _, total in told} == {TRAINING.n_tokens}


def test_a_site_that_was_not_captured_is_refused(store, tmp_path):
    with pytest.raises(SiteError, match=r"has no blocks.0.hook_resid_post: there is blocks.1"):
        trained(store, recipe(TopK(6), site=Site(0)), tmp_path / "sae")


def test_a_store_with_less_than_a_batch_is_refused(store, tmp_path):
    n_learn, _ = count_rows(store, 0.3)
    training = Training(n_tokens=2 * n_learn, batch_size=n_learn + 1, held_out_share=0.3)
    with pytest.raises(StorageError, match=rf"has {n_learn} activations .* and a batch is {n_learn + 1}"):
        trained(store, recipe(TopK(6), training=training), tmp_path / "sae")


def test_nothing_is_overwritten(store, tmp_path):
    trained(store, recipe(TopK(6)), tmp_path / "sae")
    with pytest.raises(StorageError, match="exists: delete it"):
        trained(store, recipe(TopK(6)), tmp_path / "sae")


def test_weights_that_do_not_stay_finite_are_not_saved(store, tmp_path):
    training = Training(n_tokens=640, batch_size=32, held_out_share=0.3, lr=1e30)
    with pytest.raises(ModelError, match="did not converge: its weights are not finite"):
        trained(store, recipe(Standard(1.0), training=training), tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_nothing(store, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        trained(store, recipe(TopK(6)), tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


def test_it_loads_again_as_it_was_returned(store, tmp_path):
    sae = trained(store, recipe(JumpReLU(0.5)), tmp_path / "sae")
    assert load_sae(tmp_path / "sae", device=CPU).digest == sae.digest
