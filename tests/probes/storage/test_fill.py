"""A store holds the hidden states of transformers, goes on where it stopped, and refuses what it cannot be."""

import random
from dataclasses import replace

import polars as pl
import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import SiteError, StorageError
from lab.records.stage import alone
from lab.records.tables import read_provenance, read_table
from probes.capture.site import TEXTS, AllTokens, CompletionTokens, SentenceEnds, Site, TokenSet, positions
from probes.storage import fill as fill_module
from probes.storage.fill import fill
from probes.storage.store import INDEX, open_store, plan, read_manifest, read_rows, require_model, write_manifest
from tests.kinds import one_always

from .conftest import SITES, Case, made_by, made_texts

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox"]
RULES = [AllTokens(), CompletionTokens(), SentenceEnds(("a", ".", "\n", "0")), TokenSet(frozenset(range(40)))]


@torch.no_grad()
def hidden_states(model, tokens: list[int]) -> dict[Site, torch.Tensor]:
    """From transformers' own records, of one text alone; the last stream is left out, which it norms."""
    states = model.network(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    n_layers = model.anatomy.n_layers
    found = {Site(layer, "resid_pre"): states[layer][0] for layer in range(n_layers)}
    return found | {Site(layer): states[layer + 1][0] for layer in range(n_layers - 1)} | {"normed": states[-1][0]}


def everything(store, site) -> torch.Tensor:
    return torch.cat([read_rows(store, site, number) for number in range(len(store.portions))])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("family", one_always(FAMILIES))
def test_stored_activations_are_the_hidden_states_of_transformers(family, rule, tmp_path):
    model, texts = tiny_model(family, seed=5, n_layers=3), made_texts(6)
    planned = plan(model, texts, SITES, rule, shard_bytes=20_000, batch_tokens=64)
    store = fill(model, texts, planned, tmp_path / "store", made_by(planned))
    wanted = {site: [] for site in (*SITES[:2], "normed")}
    for prompt, completion in texts.select("prompt", "completion").iter_rows():
        places = positions(rule, model.tokenizer, prompt, completion).tolist()
        states = hidden_states(model, prompt + completion)
        for site, rows in wanted.items():
            rows.append(states[site][places])
    last = model.anatomy.final_norm(everything(store, Site(2)))
    for came, site in [
        (everything(store, SITES[0]), SITES[0]),
        (everything(store, SITES[1]), SITES[1]),
        (last, "normed"),
    ]:
        expected = torch.cat(wanted[site])
        assert came.shape == expected.shape
        assert float((came - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_index_says_of_every_row_which_token_of_which_text_it_is(case, rule, tmp_path):
    planned = replace(case.plan, positions=rule)
    store = case._replace(plan=planned).fill(tmp_path / "store")
    index = INDEX.checked(store.index().collect())
    assert len(index) == store.n_rows
    wanted = []
    for text, (problem_id, sample_index, prompt, completion) in enumerate(case.texts.iter_rows()):
        places = positions(rule, case.model.tokenizer, prompt, completion).tolist()
        wanted += [(text, problem_id, sample_index, place, (prompt + completion)[place]) for place in places]
    assert index.drop("shard", "row").rows() == wanted
    for number, portion in enumerate(store.portions):
        rows = index.filter(pl.col("shard") == number)["row"]
        assert rows.to_list() == list(range(portion.n_rows))


def test_shards_hold_whole_texts_and_no_more_than_they_may(store, case):
    assert len(store.portions) > 3
    first = 0
    for portion in store.portions:
        assert portion.first_text == first
        first += portion.n_texts
        assert portion.n_rows <= case.plan.most_rows == 40
    assert first == len(case.texts)


def test_a_text_longer_than_a_shard_has_one_to_itself(case, tmp_path):
    store = case._replace(plan=replace(case.plan, shard_bytes=1)).fill(tmp_path / "store")
    # All but the one text of no rows, which goes with its neighbour.
    assert len(store.portions) == len(case.texts) - 1


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_dtype_on_disk_is_the_one_asked_for(case, store, tmp_path, name):
    planned = plan(case.model, case.texts, SITES, CompletionTokens(), stored=name, shard_bytes=10**6, batch_tokens=64)
    other = case._replace(plan=planned).fill(tmp_path / "other")
    for site in SITES:
        came = everything(other, site)
        assert came.dtype == getattr(torch, name)
        # Passes of other texts add up in another order, so a rounding may fall on the other side.
        torch.testing.assert_close(came.float(), everything(store, site), rtol=1e-2, atol=1e-2)


def test_without_a_dtype_activations_keep_the_models_own(case, tmp_path):
    model = tiny_model("llama", seed=5, n_layers=3)
    model.network.to(torch.bfloat16)
    planned = plan(model, case.texts, SITES, CompletionTokens())
    store = fill(model, case.texts, planned, tmp_path / "store", made_by(planned))
    assert (planned.weights, planned.stored) == ("bfloat16", "bfloat16")
    assert read_rows(store, SITES[0], 0).dtype == torch.bfloat16


def test_every_file_says_what_it_was_made_from(store, case):
    assert open_store(store.path) == store
    assert store.made_by == made_by(case.plan)
    assert read_provenance(store.path / "texts.parquet") == store.made_by
    assert read_provenance(store.path / "index" / "00000.parquet") == store.made_by
    assert read_table(store.path / "texts.parquet", TEXTS).equals(case.texts)


def test_a_finished_store_filled_again_is_only_read(store, case, stamps, monkeypatch):
    before = stamps(store.path)
    monkeypatch.setattr(fill_module, "write_shard", None)
    assert case.fill(store.path) == store
    assert stamps(store.path) == before


@pytest.mark.parametrize("n_written", range(6))
def test_a_stopped_store_goes_on_and_ends_with_the_same_bytes(
    store, case, n_written, tmp_path, files, stamps, monkeypatch
):
    out, plain, left = tmp_path / "stopped", fill_module.write_shard, [n_written]

    def stopping(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        plain(*arguments)

    monkeypatch.setattr(fill_module, "write_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        case.fill(out)
    with pytest.raises(StorageError, match="is not finished: give the `lab capture run` that began it again"):
        open_store(out)
    # What a kill inside a write leaves.
    (out / ".manifest.json.x.partial").write_text("half")
    if n_written:
        (out / "index" / ".00001.parquet.x.partial").write_text("half")
        (out / "shards" / "00000.safetensors").unlink()
    before = stamps(out)
    monkeypatch.setattr(fill_module, "write_shard", plain)
    assert files(case.fill(out).path) == files(store.path)
    kept = {name for name, stamp in stamps(out).items() if before.get(name) == stamp}
    assert kept >= {f"shards/{number:05d}.safetensors" for number in range(1, n_written)}


def test_progress_ends_with_all_rows_also_when_shards_were_there(store, case, tmp_path):
    told = []
    case.fill(tmp_path / "new", on_progress=lambda *progress: told.append(progress))
    assert sum(n for n, _ in told) == store.n_rows
    assert {total for _, total in told} == {store.n_rows}


def test_no_more_than_one_shard_is_held(case, tmp_path, monkeypatch):
    held, most, plain = [0], [0], torch.empty

    def counted(*shape, **options):
        tensor = plain(*shape, **options)
        held[0] += tensor.nbytes
        most[0] = max(most[0], held[0])
        return tensor

    saving = fill_module.save_file

    def saved(*arguments, **options):
        saving(*arguments, **options)
        held[0] = 0

    monkeypatch.setattr(fill_module.torch, "empty", counted)
    monkeypatch.setattr(fill_module, "save_file", saved)
    case.fill(tmp_path / "new")
    assert 0 < most[0] <= case.plan.shard_bytes


def test_passes_hold_no_more_tokens_than_they_may(case):
    chosen = fill_module._chosen(case.model, case.plan, case.texts)
    batches = list(fill_module.passes(chosen, 64))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(text.tokens) for text in batch) <= 64
    assert sum(map(len, batches)) == len(case.texts) - 1
    assert max(map(len, batches)) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": (Site(1),)}, "sites is .* there and blocks.1.hook_resid_post here; choose another --out"),
        ({"positions": AllTokens()}, "positions is CompletionTokens\\(\\) there and AllTokens\\(\\) here"),
        ({"stored": "float16"}, "stored is float32 there and float16 here"),
        ({"batch_tokens": 65}, "batch_tokens is 64 there and 65 here"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_store_of_another_configuration_is_refused_with_what_differs(store, case, change, message, finished):
    if not finished:
        write_manifest(replace(store, files={}))
    with pytest.raises(StorageError, match=f"a store of another configuration: {message}"):
        case._replace(plan=replace(case.plan, **change)).fill(store.path)


def test_a_store_of_another_model_is_refused_by_its_digest(store, case):
    other = tiny_model("llama", seed=6, n_layers=3)
    with pytest.raises(StorageError, match=f"model_digest is {case.model.digest} there and {other.digest} here"):
        Case(other, case.texts, plan(other, case.texts, SITES, CompletionTokens())).fill(store.path)
    with pytest.raises(
        StorageError, match=rf"made from tiny-llama-5 with digest {case.model.digest}, and tiny-llama-6"
    ):
        require_model(store, other)
    with pytest.raises(StorageError, match="want that very model"):
        case._replace(model=other).fill(store.path)
    require_model(store, case.model)


def test_work_that_another_version_began_is_refused(store, case):
    begun = replace(store, files={}, made_by=replace(store.made_by, commit="0" * 40, packages={"torch": "1.0"}))
    write_manifest(begun)
    with pytest.raises(StorageError, match=r"begun by another version \(commit 000000000000.* torch 1\.0; this is"):
        case.fill(store.path)


def test_one_capture_at_a_time_fills_a_store(case, tmp_path):
    with alone(tmp_path / "store"), pytest.raises(StorageError, match=r"store is in use by another run: wait for it"):
        case.fill(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_other_things_is_left_alone(case, tmp_path, files):
    (tmp_path / "notes.txt").write_text("mine")
    before = files(tmp_path)
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(StorageError, match="exists and is not a store of activations: choose another --out"):
            case.fill(out)
    with pytest.raises(StorageError, match=r"is not a store of activations: it has no manifest\.json"):
        open_store(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sites": ()}, SiteError, "sites none: want at least one"),
        ({"sites": (Site(0), Site(0))}, SiteError, "none twice"),
        ({"sites": (Site(3),)}, SiteError, "layer 3 is out of range: tiny-llama-5 has 3 layers, want 0 to 2"),
        ({"shard_bytes": 0}, StorageError, "want at least 1 of each"),
        ({"batch_tokens": 0}, StorageError, "want at least 1 of each"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(case, arguments, error, message):
    given = {"sites": SITES} | arguments
    with pytest.raises(error, match=message):
        plan(case.model, case.texts, given.pop("sites"), CompletionTokens(), **given)


def test_a_text_beyond_the_context_of_the_model_is_refused_by_name(case):
    long = case.texts.with_columns(pl.lit([7] * 251, dtype=pl.List(pl.Int32)).alias("completion"))
    with pytest.raises(StorageError, match=r"sample \d of 'p\d' has 25\d tokens, and tiny-llama-5 reads 256"):
        plan(case.model, long, SITES, CompletionTokens())


def test_positions_that_choose_no_token_at_all_are_refused_before_anything_is_written(case, tmp_path):
    planned = replace(case.plan, positions=SentenceEnds(("no such end",)))
    with pytest.raises(StorageError, match="no token of 12 texts is among the positions SentenceEnds"):
        case._replace(plan=planned).fill(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_hook_that_never_fires_is_an_error_that_names_it(case, tmp_path):
    model = tiny_model("llama", seed=5, n_layers=3)
    model.network.model.layers = torch.nn.ModuleList()
    with pytest.raises(SiteError, match=r"blocks\.2\.hook_resid_post never fired in tiny-llama-5"):
        case._replace(model=model).fill(tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_streams_of_mixed_dtypes_are_an_error(case, tmp_path):
    model = tiny_model("llama", seed=5, n_layers=3)
    model.anatomy.blocks[2].register_forward_hook(lambda _, __, output: output.double())
    with pytest.raises(
        SiteError, match=r"mixed dtypes \(.*blocks\.2\.hook_resid_post float64.*\) and weights in float32"
    ):
        case._replace(model=model).fill(tmp_path / "store")


@pytest.mark.parametrize(("factor", "largest"), [(1e6, r"\d"), (float("nan"), "nan")])
def test_activations_that_the_dtype_cannot_hold_are_an_error(case, tmp_path, factor, largest):
    model = tiny_model("llama", seed=5, n_layers=3)
    model.anatomy.blocks[2].register_forward_hook(lambda _, __, output: output * factor)
    message = rf"blocks\.2\.hook_resid_post are not finite in float16 \(the largest in size is {largest}.*bfloat16"
    with pytest.raises(StorageError, match=message):
        case._replace(model=model, plan=replace(case.plan, stored="float16")).fill(tmp_path / "store")


def test_memory_that_runs_out_says_what_to_lower(case, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(fill_module, "capture", exhausted)
    with pytest.raises(StorageError, match=r"memory ran out in a pass of \d+ tokens on cpu: lower --batch-tokens"):
        case.fill(tmp_path / "store")


@pytest.mark.parametrize("seed", range(20))
def test_a_manifest_with_a_flipped_bit_is_never_believed(store, seed):
    draw = random.Random(seed)
    file = store.path / "manifest.json"
    text = bytearray(file.read_bytes())
    text[draw.choice([place for place, byte in enumerate(text) if not chr(byte).isspace()])] ^= 1 << draw.randrange(8)
    file.write_bytes(text)
    with pytest.raises(StorageError, match=r"manifest\.json is (damaged: delete|of format)"):
        read_manifest(store.path)
