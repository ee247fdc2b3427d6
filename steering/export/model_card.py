"""model_card: a page of Markdown about a vector: what it is, what it does, and how each runtime takes it."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from lab.records.provenance import Provenance
from steering.export.export import Adapter, BakedBias, Format, Gguf, LayerTable, Safetensors, VllmLens
from steering.export.vector_file import Origin, VectorFile
from steering.vector import SteeringVector

UNKNOWN = "unknown"
SPECIAL = re.compile(r"[\\`*_\[\]#|~]")
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def model_card(
    name: str, file: VectorFile, exported: Mapping[Path, Format], measured: pl.DataFrame | None = None
) -> str:
    """The card of the vector `name` as Markdown.

    `exported` are the files written of it, each with its format; their commands name these files. `measured` are rows
    of a study's ladder table (the arms that use the vector, and their controls); they are given with their intervals.
    Texts from outside come out as texts: neither HTML nor Markdown in them has effect. Raises StorageError where
    `measured` is no ladder table.
    """
    vector, origin = file.vector, file.origin
    parts = [f"# {_plain(name)}", _what(vector, origin), _sites(vector, origin)]
    if measured is not None:
        parts.append(_effect(measured))
    if exported:
        parts.append("## Use")
        parts += [_use(form, path, origin) for path, form in exported.items()]
    if origin is not None:
        parts.append(_provenance(origin.made_by))
    return "\n\n".join(parts) + "\n"


def _what(vector: SteeringVector, origin: Origin | None) -> str:
    facts = None if origin is None else origin.fitted_on
    lines = [
        "A steering vector: a direction that is added to the residual stream of a model at every steered token, times "
        "a dose. Dose 1 is the tensor as it is.",
        "",
        f"- How it was fitted: {_plain(vector.description) or UNKNOWN}",
        f"- Width (d_model): {vector.d_model}",
    ]
    if facts is None:
        lines.append(f"- Model: {UNKNOWN}")
    else:
        lines += [
            f"- Model: {_plain(facts.name)}, family {_plain(facts.family)}, {facts.n_layers} layers",
            f"- Digest of the model: {_plain(facts.digest)}; of its tokenizer: {_plain(facts.tokenizer_digest)}",
        ]
    dose = None if origin is None else origin.measured_dose
    lines.append("- Measured at dose: " + ("none" if dose is None else f"{dose:g}"))
    return "\n".join(lines)


def _sites(vector: SteeringVector, origin: Origin | None) -> str:
    dose = 1.0 if origin is None or origin.measured_dose is None else origin.measured_dose
    rows = [
        (f"`{site}`", _number(norm), _number(stream), _number(_relative(dose * norm, stream)))
        for site, norm, stream in ((site, norm, vector.residual_norms[site]) for site, norm in vector.norms.items())
    ]
    heads = ("Site", "Norm", "Mean norm of the stream", f"Relative dose at {dose:g}")
    return (
        "## Sites\n\n"
        + _table(heads, rows)
        + "\n\nBlocks count from 0; `resid_post` of block N is its output, `resid_mid` what its MLP reads."
    )


def _relative(norm: float, stream: float) -> float:
    return abs(norm) / stream if stream > 0 else math.nan


def _effect(ladder: pl.DataFrame) -> str:
    rows = [
        (
            _plain(row["label"]),
            _plain(row["measure"]),
            _interval(row["accuracy"], row["low"], row["high"]),
            _interval(row["gain"], row["gain_low"], row["gain_high"]),
            _interval(row["over_control"], row["over_control_low"], row["over_control_high"]),
            f"{row['n_problems']} x {row['n_samples']}",
        )
        for row in ladder.sort("order", "measure").iter_rows(named=True)
    ]
    heads = ("Arm", "Measure", "Accuracy, %", "Gain, points", "Over its control, points", "Problems x samples")
    return "## Measured effect\n\n" + _table(heads, rows) + "\n\nIn brackets: 95 % intervals; problems are resampled."


def _interval(value: float, low: float, high: float) -> str:
    return "not defined" if math.isnan(value) else f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _use(form: Format, path: Path, origin: Origin | None) -> str:
    facts = None if origin is None else origin.fitted_on
    model = "MODEL" if facts is None else facts.name
    match form:
        case Safetensors():
            return _section(
                "This project (safetensors)",
                "python",
                "from pathlib import Path",
                "import torch",
                "from lab.models.load import load",
                "from lab.models.source import model_source",
                "from steering.edit import Add, apply",
                "from steering.export.tensors import load_vector",
                f'model = load(model_source({_quoted(model)}), device=torch.device("cpu"), dtype=torch.float32)',
                f"with apply(model, Add(load_vector(Path({_quoted(path)})), dose=1.0)):",
                "    ...  # every forward pass in here is steered",
            )
        case Gguf():
            file = _shell(path)
            return "\n\n".join(
                (
                    _section(
                        "llama.cpp (GGUF control vector)",
                        "sh",
                        f"llama-cli -m MODEL.gguf --control-vector {file}",
                        "# at another strength; older builds take the number as an argument of its own",
                        f"llama-cli -m MODEL.gguf --control-vector-scaled {_shell(f'{path}:0.5')}",
                    ),
                    _section(
                        "llama.cpp from Python (llama-cpp-python)",
                        "python",
                        "import ctypes, llama_cpp, numpy as np",
                        "from gguf import GGUFReader",
                        'llama = llama_cpp.Llama("MODEL.gguf", n_ctx=512, verbose=False)',
                        "width, last = llama.n_embd(), llama_cpp.llama_model_n_layer(llama.model)",
                        "rows = np.zeros((last - 1, width), np.float32)  # the first is of block 1",
                        f"for tensor in GGUFReader({_quoted(path)}).tensors:",
                        '    rows[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data',
                        "numbers = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))",
                        "llama_cpp.llama_set_adapter_cvec(llama.ctx, numbers, rows.size, width, 1, last)",
                        "llama.reset()  # forgets what was read without the vector",
                        'print(llama("A prompt", max_tokens=16, temperature=0)["choices"][0]["text"])',
                    ),
                    _section("repeng (the same file)", "python", f"ControlVector.import_gguf({_quoted(path)})"),
                    _section(
                        "EasySteer (the same file)",
                        "python",
                        "import easysteer.vectors",
                        f'payload = easysteer.vectors.load({_quoted(path)}, format="gguf")',
                        "# then VectorSpec(data=payload, ...)",
                    ),
                )
            )
        case VllmLens():
            return _section(
                "vLLM with vllm-lens",
                "python",
                "import json",
                f"vector = json.load(open({_quoted(path)}))",
                "# over HTTP, in the body of a request",
                'body = {"vllm_xargs": {"apply_steering_vectors": json.dumps([vector])}}',
                "# in process",
                "from vllm import SamplingParams",
                "from vllm_lens import SteeringVector",
                "vectors = [SteeringVector.model_validate(vector)]",
                'SamplingParams(extra_args={"apply_steering_vectors": vectors})',
            )
        case LayerTable():
            return _section(
                "hotwire, steering-vectors (one row a layer; their own files are pickles, made where they are served)",
                "python",
                "import torch",
                "from safetensors.torch import load_file",
                f'torch.save(load_file({_quoted(path)})["directions"], "vector.pt")',
                "# hotwire: HOTWIRE_VECTORS=vector.pt for the server, and in a request",
                """# {"vllm_xargs": {"hotwire": '{"id": "vector", "layer": N, "scale": 1.0}'}}""",
            )
        case BakedBias():
            return "\n\n".join(
                (
                    _section(
                        "transformers (baked checkpoint; always steered)",
                        "python",
                        "from transformers import AutoModelForCausalLM, AutoTokenizer",
                        f"model = AutoModelForCausalLM.from_pretrained({_quoted(path)})",
                        f"tokenizer = AutoTokenizer.from_pretrained({_quoted(path)})",
                    ),
                    _section("vLLM (the same checkpoint)", "sh", f"vllm serve {_shell(path)}"),
                )
            )
        case Adapter():
            return _section(
                "transformers and PEFT (adapter; stays beside the model, not merged)",
                "python",
                "from peft import PeftModel",
                "from transformers import AutoModelForCausalLM",
                f"base = AutoModelForCausalLM.from_pretrained({_quoted(model)})",
                f"model = PeftModel.from_pretrained(base, {_quoted(path)})",
            )


def _provenance(made_by: Provenance) -> str:
    changed = ", with uncommitted changes" if made_by.dirty else ""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(made_by.packages.items()))
    lines = [
        "## Provenance",
        "",
        f"- Made by: {_plain(made_by.stage)}, commit {_plain(made_by.commit)}{changed}, seed {made_by.seed}",
        f"- On: {_plain(made_by.device)}, {_plain(made_by.dtype)}",
        f"- With: {_plain(packages)}",
    ]
    lines += [f"- From: {_plain(name)} {_plain(digest)}" for name, digest in sorted(made_by.parents.items())]
    return "\n".join(lines) + "\n\n" + _fenced("json", made_by.config)


def _section(title: str, language: str, *lines: str) -> str:
    return f"### {title}\n\n{_fenced(language, *lines)}"


def _fenced(language: str, *lines: str) -> str:
    """A code block that nothing inside can end."""
    code = "\n".join(" ".join(line.splitlines()) for line in lines)
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _plain(text: str) -> str:
    """`text` on one line, as itself wherever Markdown or HTML would read it."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split())).translate(ENTITIES)


def _quoted(text: str | Path) -> str:
    """A literal of Python."""
    return json.dumps(str(text))


def _shell(text: str | Path) -> str:
    return shlex.quote(str(text))


def _number(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.4g}"
