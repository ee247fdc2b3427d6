"""Ratchets: rules of the house that no type checker holds. Each names the file and the line that broke it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from elicitation.cli.main import main

ROOT = Path(__file__).parents[2]
PACKAGES = ("lab", "probes", "steering", "elicitation")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
BANNED_NAMES = {"utils", "util", "helpers", "common", "misc", "manager", "handler", "base", "types"}

# The modules, or folders, that alone may import a library; one without a door may not be imported yet.
DOORS = {
    "transformer_lens": ("lab/models/bridge.py",),
    "sae_lens": ("probes/sae/load.py", "probes/sae/train.py"),
    "sklearn": ("probes/scores/label_probes.py", "steering/routing/fit_router.py"),
    "trl": ("lab/post_training/",),
    "datasets": ("lab/post_training/", "lab/tasks/hub_dataset.py"),
    "peft": ("lab/models/load.py", "lab/organisms/build_adapter.py", "lab/post_training/supervised.py"),
    "huggingface_hub": ("lab/models/load.py", "steering/export/push.py"),
    "gguf": ("lab/models/gguf_weights.py", "steering/export/gguf.py"),
    "reasoning_gym": ("lab/tasks/gym.py",),
    "math_verify": ("lab/tasks/math_answer.py",),
    "tyro": (
        "elicitation/cli/main.py",
        "elicitation/cli/commands.py",
        "elicitation/cli/feature_commands.py",
        "elicitation/cli/pair_commands.py",
        "elicitation/cli/vector_commands.py",
    ),
    "rich": (
        "elicitation/cli/run.py",
        "elicitation/cli/run_attribution.py",
        "elicitation/cli/run_export.py",
        "elicitation/cli/run_features.py",
        "elicitation/cli/run_organisms.py",
        "elicitation/cli/run_pairs.py",
        "elicitation/cli/run_sae.py",
        "elicitation/cli/run_taxonomy.py",
        "elicitation/cli/run_vectors.py",
        "elicitation/cli/progress.py",
        "elicitation/report/kit/table.py",
        "elicitation/report/study/ladder_table.py",
        "elicitation/report/calibration/answer.py",
    ),
    "vllm": (),
    "anywidget": ("elicitation/widgets/mime_bundle.py",),
    "traitlets": ("elicitation/widgets/mime_bundle.py",),
    "ray": ("lab/records/scale_out.py",),
}
# Verifiers of third parties draw from global generators; this module seeds those of the process that it is alone in.
OWN_PROCESS = "lab/tasks/worker.py"
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal"}

HELP = """
import sys
from elicitation.cli.main import main
sys.argv = ["lab", "--help"]
try:
    main()
except SystemExit:
    print("LOADED", *sorted({"torch", "transformers", "polars", "plotly", "numpy"} & set(sys.modules)))
"""

SURFACE = {
    "": {
        "demo",
        "study",
        "calibrate",
        "sample",
        "capture",
        "sae",
        "features",
        "attribute",
        "taxonomy",
        "vectors",
        "export",
        "organisms",
        "pairs",
        "doctor",
    },
    "demo": {"--out", "--seed"},
    "study": {
        "--pair",
        "--task",
        "--old-task",
        "--out",
        "--companions",
        "--n-problems",
        "--n-samples",
        "--n-curve-samples",
        "--ks",
        "--n-fit-problems",
        "--layer",
        "--feature-layers",
        "--published-hybrids",
        "--temperature",
        "--max-new-tokens",
        "--stop",
        "--seed",
        "--batch-size",
        "--device",
        "--dtype",
    },
    "calibrate": {"--quick", "--only", "--out", "--seed", "--jobs", "--device"},
    "sample": {
        "--model",
        "--task",
        "--out",
        "--n-problems",
        "--n-samples",
        "--temperature",
        "--top-p",
        "--max-new-tokens",
        "--stop",
        "--seed",
        "--batch-size",
        "--device",
        "--dtype",
    },
    "capture": {"run", "verify", "repair"},
    "capture run": {
        "--model",
        "--traces",
        "--problems",
        "--sites",
        "--positions",
        "--out",
        "--stored-dtype",
        "--shard-mib",
        "--batch-tokens",
        "--ray",
        "--device",
        "--dtype",
    },
    "capture verify": set(),
    "capture repair": set(),
    "sae": {"train", "compare"},
    "sae train": {
        "--store",
        "--sites",
        "--architectures",
        "--sizes",
        "--out",
        "--n-tokens",
        "--batch-size",
        "--lr",
        "--held-out-share",
        "--seed",
        "--ray",
        "--device",
    },
    "sae compare": {
        "--pair",
        "--placebo",
        "--site",
        "--d-sae",
        "--k",
        "--n-steps",
        "--out",
        "--seed",
        "--device",
    },
    "features": {
        "--sae",
        "--store",
        "--tuned-store",
        "--labels",
        "--problems",
        "--effects",
        "--out",
        "--n-shown",
        "--seed",
        "--device",
    },
    "attribute": {
        "--model",
        "--sae",
        "--task",
        "--toward",
        "--against",
        "--traces",
        "--method",
        "--n-steps",
        "--out",
        "--n-problems",
        "--seed",
        "--batch",
        "--shard-texts",
        "--ray",
        "--device",
        "--dtype",
    },
    "taxonomy": {
        "--store",
        "--segments",
        "--problems",
        "--sites",
        "--sizes",
        "--ks",
        "--n-seeds",
        "--out",
        "--seed",
    },
    "vectors": {
        "--pair",
        "--task",
        "--placebo",
        "--other-task",
        "--out",
        "--methods",
        "--layers",
        "--sae",
        "--policy-steps",
        "--policy-prompts",
        "--policy-controls",
        "--doses",
        "--other-base",
        "--other-skill-base",
        "--other-skill-task",
        "--n-problems",
        "--n-samples",
        "--n-fit-problems",
        "--n-fit-samples",
        "--fit-steps",
        "--n-boot",
        "--max-new-tokens",
        "--seed",
        "--batch-size",
        "--device",
        "--dtype",
    },
    "export": {
        "--vector",
        "--format",
        "--out",
        "--model",
        "--dose",
        "--study",
        "--arms",
        "--card",
        "--push",
        "--device",
        "--dtype",
    },
    "organisms": {"build", "list"},
    "organisms build": {"--seed", "--device", "--out"},
    "organisms list": set(),
    "pairs": {"fetch", "list", "build"},
    "pairs fetch": set(),
    "pairs list": set(),
    "pairs build": {"--seed", "--device", "--out"},
    "doctor": {"--json"},
}


def here(path: Path, node: ast.stmt | ast.expr | None = None) -> str:
    """`lab/records/seeds.py:12`, for a message."""
    return str(path.relative_to(ROOT)) + ("" if node is None else f":{node.lineno}")


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that is imported anywhere in a file, also inside functions, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node


def dotted(node: ast.expr) -> str:
    """`torch.random.fork_rng` of the expression that is written so; "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls(node: ast.AST, *, forked: bool = False) -> Iterator[tuple[ast.Call, bool]]:
    """Every call below `node`, with whether it stands in a `torch.random.fork_rng` block."""
    if isinstance(node, ast.With):
        items = [item.context_expr for item in node.items]
        forked = forked or any(
            isinstance(item, ast.Call) and dotted(item.func) == "torch.random.fork_rng" for item in items
        )
    if isinstance(node, ast.Call):
        yield node, forked
    for child in ast.iter_child_nodes(node):
        yield from calls(child, forked=forked)


def test_there_is_something_to_check():
    assert len(MODULES) > 60


def test_no_module_is_longer_than_four_hundred_lines():
    lengths = {here(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_module_has_a_name_of_its_own():
    named = [part.removesuffix(".py") for path in MODULES for part in path.relative_to(ROOT).parts]
    assert BANNED_NAMES & set(named) == set()


def test_every_module_says_what_it_is():
    assert [here(path) for path, tree in trees() if tree.body and not ast.get_docstring(tree)] == []


def test_heavy_libraries_enter_by_their_doors_only():
    strays = [
        f"{here(path, node)} imports {name}"
        for path, tree in trees()
        for name, node in imports(tree)
        if (doors := DOORS.get(name.partition(".")[0])) is not None and not here(path).startswith(doors)
    ]
    assert strays == []


def test_every_door_is_used():
    entered = {(name.partition(".")[0], here(path)) for path, tree in trees() for name, _ in imports(tree)}
    unused = [
        (library, door)
        for library, doors in DOORS.items()
        for door in doors
        if not any(name == library and path.startswith(door) for name, path in entered)
    ]
    assert unused == []


def test_annotations_are_evaluated_because_shape_checks_read_them():
    assert [here(path, node) for path, tree in trees() for name, node in imports(tree) if name == "__future__"] == []


def test_no_global_generator_is_seeded_outside_a_fork():
    seeds = [
        here(path, call)
        for path, tree in trees()
        for call, forked in calls(tree)
        if not forked
        and here(path) != OWN_PROCESS
        and (
            dotted(call.func).endswith((".manual_seed", ".manual_seed_all", "random.seed"))
            or dotted(call.func).rpartition(".")[2] == "set_seed"
        )
    ]
    assert seeds == []


def test_no_random_tensor_is_drawn_from_the_global_generator():
    draws = [
        here(path, call)
        for path, tree in trees()
        for call, forked in calls(tree)
        if not forked
        and dotted(call.func).rpartition(".")[0] == "torch"
        and dotted(call.func).rpartition(".")[2] in DRAWS
        and "generator" not in {keyword.arg for keyword in call.keywords}
    ]
    assert draws == []


def test_nothing_is_pickled():
    pickles = [
        here(path, node) for path, tree in trees() for name, node in imports(tree) if name.partition(".")[0] in PICKLING
    ]
    pickles += [
        here(path, call)
        for path, tree in trees()
        for call, _ in calls(tree)
        if dotted(call.func) in ("torch.load", "torch.save", "np.load", "np.save", "pd.read_pickle")
    ]
    assert pickles == []


def test_no_code_of_a_model_repository_is_trusted():
    trusted = [
        here(path, call)
        for path, tree in trees()
        for call, _ in calls(tree)
        for keyword in call.keywords
        if keyword.arg == "trust_remote_code"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    assert trusted == []


def test_imports_follow_the_arrows(capfd):
    failed = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert failed == 0, capfd.readouterr().out


def named_paths(text: str) -> set[str]:
    """What looks like a path of this repository in a Markdown text; outputs, wildcards and addresses do not."""
    text = re.sub(r"https?://\S+", "", text)
    words = set(re.findall(r"[\w.*<>/-]+", text))
    folders = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir())
    files = (".py", ".md", ".toml", ".ipynb", ".yaml", ".yml")
    return {
        word.rstrip(".")
        for word in words
        if (word.startswith(folders) or word.rstrip(".").endswith(files))
        and not word.startswith(("runs/", ".venv/"))
        and not re.search(r"[*<>]|^[./]|\.\.\.", word.removeprefix(".ci/"))
    }


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page):
    folders = (*PACKAGES, "tests", "notebooks", "benchmarks")
    everywhere = {path.name for folder in folders for path in (ROOT / folder).rglob("*")}
    absent = [
        name
        for name in named_paths(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists() and ("/" in name or name not in everywhere)
    ]
    assert absent == []


def test_paths_are_found_in_a_page():
    text = "See `lab/records/seeds.py`, [x](tests/conftest.py), steering/ but not runs/x.md, lab/*.py, https://a.b/lab/c.py."
    assert named_paths(text) == {"lab/records/seeds.py", "tests/conftest.py", "steering/"}


@pytest.mark.parametrize("command", SURFACE)
def test_the_command_line_has_these_commands_and_flags_and_no_others(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lab", *command.split(), "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="0"):
        main()
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    # A name in a table of help stands first on its line, behind the frame.
    found = re.findall(r"^\W*?(--[a-z][a-z0-9-]*)", text, re.MULTILINE)
    found += re.findall(r"^\W*• ([a-z-]+)", text, re.MULTILINE)
    assert set(found) == SURFACE[command]


def test_help_loads_no_heavy_library():
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "LOADED"
