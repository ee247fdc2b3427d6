"""Files that lie: small ones of every kind that the lab reads, ways to damage them, and what their readers make of it.

`python tests/liars.py DIRECTORY KIND:NUMBER ...` reads damaged copies in a process of its own, one after another, and
prints what became of each as JSON: the test that starts it can end it, and does not grow with it.
"""

import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from safetensors.torch import load_file, save_file

SECONDS, GROWTH_KB = 20, 2 * 2**20
HEADS = {"hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"}
"""Of a model's configuration, what its tensors must have too."""


class Outcome(NamedTuple):
    kind: str
    damage: str
    must: bool
    """Whether the files, or their manifest, hold enough to notice it."""
    became: str
    """refused, accepted, or what is a fault of ours: foreign, many lines, hung, grew."""
    told: str

    @property
    def is_fault(self) -> bool:
        return self.became not in ("refused", "accepted") or (self.must and self.became == "accepted")


@dataclass(frozen=True)
class Kind:
    """A thing on disk, in a directory of its own."""

    build: Callable[[Path], None]
    read: Callable[[Path], object]
    damaged: str = "**/*"
    """Which of its files are damaged."""
    is_covered: bool = False
    """Whether a manifest tells of all of them."""
    rows_are_known: bool = False
    """Whether its tables have keys, and its tensors names, that a reader knows."""


# -- what there is ---------------------------------------------------------------------------------------------------


def network():
    from lab.models.tiny import tiny_network

    return tiny_network("llama", seed=3, n_layers=2, d_model=16)


def build_checkpoint(out: Path) -> None:
    from lab.models.tiny import byte_tokenizer

    network().save_pretrained(out)
    byte_tokenizer().save_pretrained(out)


def build_baked(out: Path) -> None:
    from lab.records.stage import atomic_directory

    with atomic_directory(out / "baked") as work:
        build_checkpoint(work)


def read_model(path: Path) -> object:
    from lab.models.load import load
    from lab.models.source import model_source

    model = load(model_source(str(path)), device=torch.device("cpu"), dtype=torch.float32)
    model.tokenizer.decode(model.tokenizer("<1+2?").input_ids)
    return model.network(torch.tensor([[1, 2, 3]])).logits


def build_adapter(out: Path) -> None:
    from lab.post_training.trainers import save_low_rank, with_low_rank

    build_checkpoint(out / "base")
    save_low_rank(with_low_rank(network(), 2, seed=0), out / "adapter", parent=str(out / "base"))


def build_gguf(out: Path) -> None:
    from tests.lab.models.test_gguf_weights import write_gguf

    write_gguf(out / "tiny.gguf", network())


def vector_and_origin():
    from lab.records.provenance import provenance
    from probes.capture.site import Site
    from steering.export.vector_file import ModelFacts, Origin
    from steering.vector import SteeringVector

    facts = ModelFacts(name="tiny", digest="0" * 16, tokenizer_digest="1" * 16, family="llama", d_model=16, n_layers=3)
    made_by = provenance("fit", {"k": 1}, {"model": "m"}, device="cpu", dtype="float32", seed=0)
    rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    vector = SteeringVector({Site(1): rows[0], Site(2): rows[1]}, {Site(1): 3.0, Site(2): math.nan}, "a fit")
    return vector, Origin(made_by=made_by, fitted_on=facts, measured_dose=1.5), facts


def build_vector(form: str) -> Callable[[Path], None]:
    def build(out: Path) -> None:
        from steering.export.export import FORMATS, export

        vector, origin, _ = vector_and_origin()
        ending = {"gguf": "gguf", "vllm-lens": "json"}.get(form, "safetensors")
        export(vector, FORMATS[form].for_model(None), out / f"vector.{ending}", origin)

    return build


def read_vector(path: Path) -> object:
    from steering.export.export import import_vector

    _, _, facts = vector_and_origin()
    (file,) = path.iterdir()
    return import_vector(file, facts)


def build_strange_sae(out: Path) -> None:
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    metadata = SAEMetadata(model_name="tiny", hook_name="blocks.1.hook_resid_post")
    coder = TopKSAE(TopKSAEConfig(d_in=16, d_sae=24, k=4, metadata=metadata))
    with torch.no_grad():
        for tensor in coder.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    coder.save_model(out)


def build_sae(out: Path) -> None:
    from lab.records.stage import atomic_directory

    with atomic_directory(out / "sae") as work:
        build_strange_sae(work)


def read_sae(path: Path) -> object:
    from probes.sae.dictionary import load_sae

    return load_sae(path, device=torch.device("cpu")).encode(torch.zeros(2, 16))


def texts() -> pl.DataFrame:
    from probes.capture.site import TEXTS

    rows = [{"problem_id": f"p{n}", "sample_index": 0, "prompt": [1, 2], "completion": [3, 4, 5 + n]} for n in range(6)]
    return TEXTS.frame(rows)


def build_store(out: Path) -> None:
    from lab.models.load import assemble
    from lab.models.tiny import byte_tokenizer
    from lab.records.provenance import provenance
    from probes.capture.site import AllTokens, Site
    from probes.storage.fill import fill
    from probes.storage.store import plan

    model = assemble(network(), byte_tokenizer(), name="tiny")
    planned = plan(model, texts(), (Site(1),), AllTokens(), shard_bytes=16 * 4 * 16)
    fill(model, texts(), planned, out / "acts", provenance("capture", planned, {}, device="cpu", dtype="f", seed=0))


def read_store(path: Path) -> object:
    from probes.storage.store import open_store, read_rows, read_texts

    store = open_store(path / "acts")
    store.index().collect()
    return read_texts(store), [read_rows(store, store.plan.sites[0], n) for n in range(len(store.portions))]


def tables():
    from lab.sampling.trace import TRACES
    from lab.tasks.problem import PROBLEMS, problem_table
    from lab.tasks.source import open_task, task_source

    task = open_task(task_source("chain:+:1-1"), n_problems=4, seed=0)
    rows = [
        {
            "arm": "base", "problem_id": problem.id, "sample_index": n, "tokens": [1, 2], "logprobs": [-0.5, -1.0],
            "routes": [0, 0], "categories": [-1, -1], "content_bits": [0.0, 0.0], "text": "A1.", "stop": "eos",
        }
        for problem in task.problems for n in range(3)
    ]  # fmt: skip
    return (TRACES.frame(rows), TRACES), (problem_table(task.problems), PROBLEMS)


def build_traces(out: Path) -> None:
    from lab.records.provenance import provenance
    from lab.records.tables import write_table

    made_by = provenance("sample", {}, {}, device="cpu", dtype="float32", seed=0)
    for name, (table, schema) in zip(("traces.parquet", "traces.problems.parquet"), tables(), strict=True):
        write_table(out / name, table, schema, made_by)


def build_sampled(out: Path) -> None:
    from lab.records.stage import files_together

    with files_together(out / "traces.parquet") as work:
        build_traces(work)


def read_traces(path: Path) -> object:
    from lab.sampling.stored import rejudged, stored

    found = stored(path / "traces.parquet", "chain:+:1-1", (None, None), opens_thought=False)
    return rejudged(found)


def study():
    from elicitation.study.config import Study

    return Study(base="zero-base", tuned="zero-rl", task="chain:+:1-1")


def build_study(out: Path) -> None:
    from lab.records.provenance import provenance
    from lab.records.stage import claimed, memoised
    from lab.records.tables import write_table

    made_by = provenance("sample", {}, {}, device="cpu", dtype="float32", seed=0)
    (traces, traced), (problems, asked) = tables()
    with claimed(out / "runs", study()):
        memoised(
            out / "runs",
            "problems",
            {},
            {},
            lambda work: write_table(work / "held_out.parquet", problems, asked, made_by),
        )
        memoised(
            out / "runs" / "traces", "base", {}, {},
            lambda work: write_table(work / "traces.parquet", traces, traced, made_by),
        )  # fmt: skip


def read_study(path: Path) -> object:
    import elicitation as el
    from lab.records.stage import claimed
    from lab.sampling.stored import rejudged, stored

    out = path / "runs"
    # As the same command does, given again.
    build_study(path)
    with claimed(out, study()):
        found = stored(out / "traces" / "base" / "traces.parquet", None, (None, None), opens_thought=False)
    return rejudged(found), el.report(out)


def build_rows(out: Path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}. #### {2 * n}"} for n in range(30)]
    (out / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def build_rows_table(out: Path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": 2 * n, "steps": [n, n]} for n in range(30)]
    pl.DataFrame(rows).write_parquet(out / "rows.parquet")


def build_crosscoder(out: Path) -> None:
    from probes.capture.site import Site
    from probes.crosscoder.crosscoder import Crosscoder, save_crosscoder

    _, origin, _ = vector_and_origin()
    drawn = {
        name: torch.randn(*shape, generator=torch.Generator().manual_seed(2))
        for name, shape in {"W_enc": (2, 16, 8), "b_enc": (8,), "W_dec": (8, 2, 16), "b_dec": (2, 16)}.items()
    }
    known = {"base_digest": "0" * 16, "tuned_digest": "1" * 16, "scale": torch.ones(2), "threshold": torch.tensor(0.5)}
    save_crosscoder(Crosscoder(site=Site(1), **known, **drawn), out / "pair.safetensors", origin.made_by)


def read_crosscoder(path: Path) -> object:
    from probes.crosscoder.crosscoder import load_crosscoder

    found = load_crosscoder(path / "pair.safetensors", device=torch.device("cpu"))
    return found.decode(found.encode(torch.zeros(3, 2, 16)))


def build_taxonomy(out: Path) -> None:
    from probes.capture.site import Site
    from probes.taxonomy.taxonomy import Taxonomy, save_taxonomy

    _, origin, _ = vector_and_origin()
    shapes = {"mean": (16,), "W_enc": (16, 3), "b_enc": (3,), "W_dec": (3, 16), "b_dec": (16,)}
    drawn = {name: torch.randn(*shape, generator=torch.Generator().manual_seed(3)) for name, shape in shapes.items()}
    known = {"site": Site(1), "k": 2, "names": ("a", "b", "c"), "model": "tiny", "model_digest": "0" * 16}
    save_taxonomy(out / "taxonomy.safetensors", Taxonomy(**known, **drawn), origin.made_by)


def read_taxonomy(path: Path) -> object:
    from probes.taxonomy.taxonomy import load_taxonomy

    return load_taxonomy(path / "taxonomy.safetensors").reconstruction(torch.zeros(3, 16))


def read_rows_file(path: Path) -> object:
    from lab.tasks.source import open_task, task_source

    (file,) = path.iterdir()
    return open_task(task_source(str(file)), n_problems=4, seed=0)


KINDS = {
    "rows": Kind(build_rows, read_rows_file),
    "rows table": Kind(build_rows_table, read_rows_file),
    "traces": Kind(build_traces, read_traces, rows_are_known=True),
    "sampled": Kind(build_sampled, read_traces, is_covered=True),
    "vector": Kind(build_vector("safetensors"), read_vector, is_covered=True),
    "gguf vector": Kind(build_vector("gguf"), read_vector),
    "layer table": Kind(build_vector("layer-table"), read_vector),
    "vllm-lens": Kind(build_vector("vllm-lens"), read_vector),
    "sae": Kind(build_sae, lambda path: read_sae(path / "sae"), is_covered=True),
    "strange sae": Kind(build_strange_sae, read_sae, rows_are_known=True),
    "crosscoder": Kind(build_crosscoder, read_crosscoder),
    "taxonomy": Kind(build_taxonomy, read_taxonomy),
    "store": Kind(build_store, read_store, is_covered=True),
    "study": Kind(build_study, read_study, is_covered=True),
    "checkpoint": Kind(build_checkpoint, read_model, rows_are_known=True),
    "baked": Kind(build_baked, lambda path: read_model(path / "baked"), is_covered=True),
    "adapter": Kind(build_adapter, lambda path: read_model(path / "adapter"), "adapter/*", rows_are_known=True),
    "gguf": Kind(build_gguf, lambda path: read_model(path / "tiny.gguf")),
}

# -- how they are damaged --------------------------------------------------------------------------------------------

DEEP = "[" * 60_000 + "]" * 60_000
VALUES = (
    "null",
    '"x"',
    "-1",
    "0",
    "1.5",
    "NaN",
    "1e400",
    "9" * 400,
    "[]",
    "{}",
    "true",
    r'"\ud800"',
    '"16"',
    "1000000",
)


class Damage(NamedTuple):
    told: str
    must: bool


def damage(kind: Kind, directory: Path, draw: random.Random) -> Damage:
    """Damages one file below `directory`."""
    files = [path for path in sorted(directory.glob(kind.damaged)) if path.is_file()]
    # What cannot be told from what a user may do to it is left alone.
    files = [path for path in files if path.name != "README.md"]
    file = draw.choice(files)
    before = file.read_bytes()
    ways: list[Callable[[], bool]] = [
        lambda: flipped(file, draw),
        lambda: cut(file, draw),
        lambda: swapped(file, draw, files),
    ]
    match file.suffix:
        case ".json":
            ways = [*ways, *(4 * [lambda: json_field(file, draw)])]
        case ".jsonl":
            ways = [*ways, *(4 * [lambda: row_field(file, draw)])]
        case ".parquet":
            ways += [lambda: table_edit(file, draw) and kind.rows_are_known] * 3
        case ".safetensors":
            ways += [lambda: tensor_edit(file, draw)] * 3 + [lambda: header_edit(file, draw)] * 2
            ways += [lambda: metadata_edit(file, draw)] * 2
        case ".gguf":
            ways += [lambda: gguf_edit(file, draw)] * 3
    way = draw.choice(ways)
    must = way()
    told = f"{file.relative_to(directory)}: {WHAT.pop()}"
    changed = file.read_bytes() != before
    if kind.is_covered and changed and file.suffix == ".json":
        # White space and the order of keys say nothing.
        must = same_json(before) != same_json(file.read_bytes())
    return Damage(told, changed and (must or (kind.is_covered and file.suffix != ".json")))


WHAT: list[str] = []


def same_json(text: bytes) -> object:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text


def flipped(file: Path, draw: random.Random) -> bool:
    data = bytearray(file.read_bytes())
    # Headers are where the structure is.
    at = draw.randrange(min(len(data), 400) if draw.random() < 0.6 else len(data))
    data[at] ^= 1 << draw.randrange(8)
    file.write_bytes(bytes(data))
    WHAT.append(f"a bit of byte {at}")
    return False


def cut(file: Path, draw: random.Random) -> bool:
    data = file.read_bytes()
    n = draw.choice([0, 1, 7, 9, *(int(len(data) * share) for share in (0.1, 0.5, 0.9))])
    file.write_bytes(data[:n])
    WHAT.append(f"cut to {n} bytes")
    return file.suffix in (".parquet", ".safetensors", ".gguf") or file.name in ("config.json", "cfg.json")


def swapped(file: Path, draw: random.Random, files: list[Path]) -> bool:
    others = [other for other in files if other.suffix != file.suffix]
    content, name = (
        (b"\x80\x02}q\x00.", "a pickle") if not others else ((o := draw.choice(others)).read_bytes(), o.name)
    )
    file.write_bytes(content)
    WHAT.append(f"the bytes of {name}")
    return file.suffix in (".parquet", ".safetensors", ".gguf") or file.name in ("config.json", "cfg.json")


def leaves(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        # Of long lists, such as vocabularies, a few.
        if not (isinstance(item, dict | list) and len(item) > 40):
            yield from leaves(item, (*path, key))


def changed_json(text: str, draw: random.Random) -> tuple[str, tuple[Any, ...], str]:
    """A JSON text with one field changed, left out or doubled; the field, and its new value."""
    told = json.loads(text)
    if not isinstance(told, dict | list) or not told:
        return "[", (), "["
    path = draw.choice([*leaves(told)])
    inside = told
    for key in path[:-1]:
        inside = inside[key]
    value = draw.choice([*VALUES, "gone", "deep"])
    if value == "gone":
        del inside[path[-1]]
        return json.dumps(told), path, value
    inside[path[-1]] = "@@@"
    return json.dumps(told).replace('"@@@"', DEEP if value == "deep" else value, 1), path, value


def json_field(file: Path, draw: random.Random) -> bool:
    before = json.loads(file.read_text())
    text, path, value = changed_json(file.read_text(), draw)
    file.write_text(text)
    WHAT.append(f"{'.'.join(map(str, path))[:60]} is {value[:20]}")
    if file.name == "config.json" and path and path[-1] in HEADS and len(path) == 1:
        return value not in ("gone", "null", str(before[path[-1]]))
    if file.name == "cfg.json" and path in (("k",), ("d_in",), ("d_sae",)):
        return value != str(before[path[-1]])
    return value == "deep"


def row_field(file: Path, draw: random.Random) -> bool:
    lines = file.read_text().splitlines()
    at = draw.randrange(len(lines))
    lines[at], path, value = changed_json(lines[at], draw)
    if draw.random() < 0.2:
        lines[at], value = '{"question": "\udc80"}', "not UTF-8"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    WHAT.append(f"row {at}: {'.'.join(map(str, path))} is {value[:20]}")
    return value in ("deep", "not UTF-8", "gone", "null", "{}", "[]")


def table_edit(file: Path, draw: random.Random) -> bool:
    frame = pl.read_parquet(file)
    metadata = pl.read_parquet_metadata(file)
    key = "problem_id" if "problem_id" in frame.columns else frame.columns[0]
    edits = {
        "a null id": lambda: frame.with_columns(
            pl.when(pl.int_range(pl.len()) == 1).then(None).otherwise(pl.col(key)).alias(key)
        ),
        "a row twice": lambda: pl.concat([frame, frame.head(1)]),
        "a column gone": lambda: frame.drop(draw.choice(frame.columns)),
        "a column renamed": lambda: frame.rename({draw.choice(frame.columns): "another"}),
        "a column as text": lambda: frame.with_columns(pl.lit("x").alias(draw.choice(frame.columns[2:3]))),
        "a column too many": lambda: frame.with_columns(another=1),
    }
    name = draw.choice([*edits])
    edits[name]().write_parquet(file, metadata={key: value for key, value in metadata.items() if key != "ARROW:schema"})
    WHAT.append(name)
    return name != "a column as text"


def tensor_edit(file: Path, draw: random.Random) -> bool:
    from safetensors import safe_open

    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    name = draw.choice([*tensors])
    way = draw.choice(["NaN", "infinity", "spare", "renamed", "gone", "wider"])
    match way:
        case "NaN" | "infinity":
            tensors[name].flatten()[0] = float(way.lower().removesuffix("inity"))
        case "spare":
            tensors[name.replace(".0.", ".7.") if ".0." in name else f"{name}_spare"] = tensors[name].clone()
        case "renamed":
            tensors[f"{name}x"] = tensors.pop(name)
        case "gone":
            del tensors[name]
        case "wider":
            tensors[name] = torch.stack([tensors[name], tensors[name]])
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata=metadata)
    WHAT.append(f"{name} {way}")
    return True


def metadata_edit(file: Path, draw: random.Random) -> bool:
    """A field of the JSON that files of ours keep in their header; of others, nothing."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    keys = [key for key, value in (header.get("__metadata__") or {}).items() if value.startswith("{")]
    told = "nothing"
    if keys:
        before = header["__metadata__"][keys[0]]
        text, path, value = changed_json(before, draw)
        told = f"{'.'.join(map(str, path))[:60]} is {value[:20]}"
        header["__metadata__"][keys[0]] = text
        new = json.dumps(header).encode()
        # The same in other words is no damage.
        if same_json(text.encode()) != same_json(before.encode()):
            file.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])
    WHAT.append(told)
    return False


def header_edit(file: Path, draw: random.Random) -> bool:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = draw.choice([key for key in header if key != "__metadata__"])
    way = draw.choice(["dtype", "shape", "offsets"])
    match way:
        case "dtype":
            header[name]["dtype"] = {"F32": "I32", "BF16": "I16"}.get(header[name]["dtype"], "U8")
        case "shape":
            header[name]["shape"] = [*header[name]["shape"], 1] if draw.random() < 0.5 else [1, 1]
        case "offsets":
            start, end = header[name]["data_offsets"]
            header[name]["data_offsets"] = [start + 4, end + 4]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    WHAT.append(f"{way} of {name}")
    return True


def gguf_edit(file: Path, draw: random.Random) -> bool:
    data = bytearray(file.read_bytes())
    way = draw.choice(["NaN", "a huge number", "a length"])
    match way:
        case "NaN":
            data[-64:-60] = struct.pack("<f", math.nan)
        case "a huge number":
            # Numbers of tensors, and of keys.
            at = draw.choice([8, 16])
            data[at : at + 8] = struct.pack("<Q", draw.choice([2**31, 2**40, 2**63]))
        case "a length":
            at = draw.randrange(24, 400)
            data[at : at + 8] = struct.pack("<Q", draw.choice([0, 2**33, 2**64 - 1]))
    file.write_bytes(bytes(data))
    WHAT.append(way)
    return way != "a length"


# -- what becomes of it ----------------------------------------------------------------------------------------------


class HungError(BaseException):
    pass


def tried(kind: str, number: int, built: Path, scratch: Path) -> Outcome:
    """Reads the `number`th damaged copy of what was built as `kind`."""
    from lab.records.errors import LabError

    draw, here = random.Random(f"{kind} {number}"), scratch / f"{kind.replace(' ', '-')}-{number}"
    shutil.copytree(built / kind, here)
    adapter = here / "adapter" / "adapter_config.json"
    if adapter.exists():
        adapter.write_text(adapter.read_text().replace(str(built / kind), str(here)))
    told, must = damage(KINDS[kind], here, draw)

    def late(*_: object) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        KINDS[kind].read(here)
        became, said = "accepted", ""
    except LabError as error:
        said = str(error)
        became = "refused" if len(said.splitlines()) == 1 else "many lines"
    except HungError:
        became, said = "hung", ""
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        became, said = "foreign", "".join(traceback.format_exception(error)[-4:])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(here)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown > GROWTH_KB:
        became = "grew"
    return Outcome(kind, told, must, became, said)


def build_all(directory: Path, kinds: list[str]) -> None:
    for kind in kinds:
        if not (directory / kind).exists():
            (directory / kind).mkdir(parents=True)
            KINDS[kind].build(directory / kind)


def main() -> None:
    directory = Path(sys.argv[1])
    asked = [(kind, int(number)) for kind, _, number in (word.rpartition(":") for word in sys.argv[2:])]
    out = os.fdopen(os.dup(1), "w")
    # Libraries, and panics of Rust, tell things there.
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    build_all(directory / "built", [*dict.fromkeys(kind for kind, _ in asked)])
    for kind, number in asked:
        print(json.dumps(tried(kind, number, directory / "built", directory / "scratch")), file=out, flush=True)


if __name__ == "__main__":
    main()
