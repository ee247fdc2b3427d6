"""PEFT adapters that are only a bias: PeftModel computes what `apply` computes."""

import json

import pytest
import torch
from peft import PeftModel

from lab.models.load import Model, load
from lab.models.source import AdapterModel, BuiltInModel
from lab.models.tiny import tiny_model
from lab.records.errors import ModelError, SiteError, StorageError, VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.edit import Add, apply
from steering.export.biases import Adapter
from steering.export.vector_file import Origin, facts_of
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7)
IDS = torch.tensor([[72, 101, 108, 108, 111, 32, 116], [104, 101, 114, 101, 46, 10, 65]])
CPU = torch.device("cpu")

# PEFT says that such an adapter cannot be merged, which is so.
pytestmark = pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning")


def drawn(model: Model, *sites: Site) -> SteeringVector:
    generator = torch.Generator().manual_seed(3)
    directions = {site: torch.randn(model.anatomy.d_model, generator=generator) for site in sites}
    return SteeringVector(directions, dict.fromkeys(sites, 2.0), "drawn")


def origin_of(model: Model) -> Origin:
    return Origin(made_by=MADE_BY, fitted_on=facts_of(model))


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3", "gemma", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    "sites",
    [(Site(0),), (Site(2),), (Site(1, "resid_pre"), Site(1)), (Site(0, "resid_mid"), Site(1))],
    ids=lambda sites: " ".join(map(str, sites)),
)
def test_the_adapted_model_gives_the_logits_of_apply(family, sites, tmp_path):
    model = tiny_model(family, n_layers=3)
    if not model.anatomy.has_resid_mid and any(site.stream == "resid_mid" for site in sites):
        sites = (Site(0),)
    vector = drawn(model, *sites)
    Adapter(model).write(tmp_path / "adapter", vector, origin_of(model))
    with torch.no_grad(), apply(model, Add(vector)):
        wanted = model.network(IDS).logits
    plain = model.network(IDS).logits
    assert (wanted - plain).abs().max() > 0.1
    adapted = PeftModel.from_pretrained(tiny_model(family, n_layers=3).network, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(IDS).logits, wanted, atol=1e-5, rtol=1e-5)
        with adapted.disable_adapter():
            assert torch.equal(adapted(IDS).logits, plain)


def test_no_other_map_is_changed_although_its_name_ends_alike(tmp_path):
    model = tiny_model("llama", n_layers=12)
    Adapter(model).write(tmp_path / "adapter", drawn(model, Site(1)), origin_of(model))
    adapted = PeftModel.from_pretrained(tiny_model("llama", n_layers=12).network, tmp_path / "adapter")
    changed = {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert len(changed) == 3
    assert all("model.layers.1.mlp.down_proj.lora_" in name for name in changed)


@pytest.mark.parametrize("family", ["qwen3_moe", "olmo3", "gemma2"])
def test_families_that_norm_the_last_map_are_refused(family, tmp_path):
    model = tiny_model(family)
    with pytest.raises(VectorError, match=f"a '{family}', no linear map adds straight to the residual stream"):
        Adapter(model).write(tmp_path / "adapter", drawn(model, Site(0)), origin_of(model))
    assert list(tmp_path.iterdir()) == []


def test_what_an_adapter_cannot_hold_is_refused(tmp_path):
    model = tiny_model("qwen2")
    with pytest.raises(VectorError, match=r"blocks\.0\.hook_resid_pre is no linear map's output, and a LoRA bias"):
        Adapter(model).write(tmp_path / "adapter", drawn(model, Site(0, "resid_pre")), origin_of(model))
    with pytest.raises(SiteError, match="out of range"):
        Adapter(model).write(tmp_path / "adapter", drawn(model, Site(5)), origin_of(model))
    (tmp_path / "adapter").mkdir()
    with pytest.raises(StorageError, match="exists"):
        Adapter(model).write(tmp_path / "adapter", drawn(model, Site(0)), origin_of(model))


def test_an_adapter_says_what_it_is_of(tmp_path):
    model = load(BuiltInModel(name="zero-base"), device=CPU, dtype=torch.float32)
    Adapter(model).write(tmp_path / "adapter", drawn(model, Site(0)), origin_of(model))
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "zero-base"
    note = json.loads((tmp_path / "adapter/steering_vector.json").read_text())
    assert note["model"]["digest"] == model.digest
    # This project merges the adapters it loads, which PEFT cannot do without a bias to merge into.
    with pytest.raises(ModelError, match=r"(?i)impossible to merge"):
        load(AdapterModel(path=tmp_path / "adapter"), device=CPU, dtype=torch.float32)
