"""The command `lab`: a verb is found, its words become a command, and that is run until it ends or is stopped."""

import ast
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from types import FrameType, NoneType
from typing import Annotated, ClassVar, Literal, NoReturn, Protocol, TypeVar, get_args, get_origin, runtime_checkable

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from elicitation.cli.terminal import Terminal
from lab.records.errors import LabError, condensed, meant, whole
from lab.records.provenance import package_versions

Device = Annotated[str, tyro.conf.arg(help="auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    tyro.conf.arg(help="Precision of the weights; auto is bfloat16 on cuda, float32 elsewhere."),
]
RAY_HELP = """Work in processes of Ray's: alone, on this machine; with an address or auto, on a running cluster whose \
machines see the same files. A worker takes as many cores as OMP_NUM_THREADS says, or a GPU. Same bytes as without."""
RayPlace = Annotated[
    tuple[()] | tuple[str] | None, tyro.conf.arg(help=RAY_HELP, metavar="[ADDRESS]", help_behavior_hint="")
]


@runtime_checkable
class Command(Protocol):
    """What a verb is asked for: a frozen dataclass."""

    RESUMES: ClassVar[bool]
    """Whether the same command, given again after a stop, goes on from there."""

    def run(self, terminal: Terminal) -> None:
        """Does it; raises LabError for what the user can mend."""
        ...


Asked = TypeVar("Asked")
"""A kind of `Command`."""


class _RefusedError(Exception):
    """Carries a LabError through tyro, which would make a complaint of its own of a ValueError, as most of ours are."""

    def __init__(self, error: LabError) -> None:
        self.error = error


def parse(kind: type[Asked], argv: Sequence[str], *, prog: str, default: Asked | None = None) -> Asked:
    """The command that `argv` describes; flags that are not typed are those of `default`, where there is one.

    Raises SystemExit after the help, and after a complaint about `argv`; LabError where the values cannot be.
    """
    registry = ConstructorRegistry()
    registry.struct_rule(_Rule())
    try:
        return tyro.cli(
            kind,
            prog=prog,
            description="",
            args=argv,
            default=tyro.MISSING_NONPROP if default is None else default,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName),
            registry=registry,
        )
    except _RefusedError as refused:
        raise refused.error from None


class _Rule:
    """tyro's rule for dataclasses, but a field is a flag as its metadata says.

    `field(metadata={"flag": ...})`: None for no flag, "" for a part whose own fields need no prefix, else another name.
    `"flags"` beside it gives, for dataclasses from there on down, those of their fields that are flags.
    """

    def __init__(self) -> None:
        self.inside = False
        self.shown: dict[object, Collection[str]] = {}

    def __call__(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        """A struct that is made as tyro makes it, of the fields that are flags."""
        if self.inside or not is_dataclass(info.type):
            return None
        self.inside = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            self.inside = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        names = {field.name: field.metadata.get("flag", field.name) for field in fields(info.type)}
        for field in fields(info.type):
            self.shown |= field.metadata.get("flags", {})
        shown = {name for name in self.shown.get(info.type, names) if names[name] is not None}
        fixed = {field.name: field.default for field in spec.fields if field.name not in shown}

        @wraps(info.type, updated=())
        def made(**typed: object) -> object:
            try:
                return spec.instantiate(**fixed, **typed)
            except LabError as error:
                raise _RefusedError(error) from error

        flags = (_flag(field, names[field.name]) for field in spec.fields if field.name not in fixed)
        return StructConstructorSpec(instantiate=made, fields=tuple(flags))


def _one_paragraph(text: str | Callable[[], str | None] | None) -> str | None:
    """A docstring without the line breaks of its source."""
    told = text() if callable(text) else text
    return told and " ".join(told.split())


def _flag(field: StructFieldSpec, name: str) -> StructFieldSpec:
    """`field` as it is shown: a part of several kinds is of the one that it has; None and () are no default to show."""
    field = replace(field, helptext=partial(_one_paragraph, field.helptext))
    kind, default = field.type, field.default
    if get_origin(kind) is Annotated:
        return field
    if is_dataclass(default):
        kind = type(default)
    named = next((member for member in get_args(kind) if member is not NoneType), kind)
    shown = tyro.conf.arg(
        name=name,
        metavar=named.__name__.upper() if default is None else None,
        help_behavior_hint="" if default is None or default == () else None,
    )
    return replace(field, type=Annotated[kind, shown])


VERBS = {
    verb: f"elicitation.cli.{verb.replace('-', '_')}"
    for verb in (
        *("demo", "check-pair", "study", "calibrate", "sample", "capture", "sae", "features", "attribute", "taxonomy"),
        *("vectors", "export", "models", "task", "judge", "doctor"),
    )
}
"""Verb -> its module, which is imported when the verb is asked for.

The docstring of a module is the help of its verb. Its `COMMAND` is a `Command`, or several by the word that asks for
each, whose docstrings are then their help.
"""
ABOUT = """How much of a reasoning gain was already inside the base model?

New here? `lab demo` runs a whole study on models that come with the package, in two to three minutes. \
`lab doctor` checks the installation. `lab VERB --help` says what a verb wants, with an example."""
ENVIRONMENT = {
    # OpenMP reads it once, with torch. Threads that spin while they wait for each other stand still where another
    # process keeps a core busy: sampling took 30 times as long.
    "OMP_WAIT_POLICY": "passive",
    # Numpy's and scipy's products are those of probes, small enough that a second thread made them 20 times as slow.
    "OPENBLAS_NUM_THREADS": "1",
    # Bars and warnings of libraries would bury our own.
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
HELP = {"-h", "--help"}
N_SHOWN = 4000
"""Characters of a message; one that lists what there is may be long."""
SHOW_CURSOR = b"\x1b[?25h"


def main() -> None:
    """Entry point: 0 when done, else a line on stderr: 2 for what the user can mend, 70 for a bug, 130 or 143 if
    stopped.
    """
    terminal = Terminal(sys.argv[1:])
    try:
        command = asked(terminal)
        if command is not None:
            with stoppable(advice(command, terminal.line)):
                command.run(terminal)
    except BrokenPipeError:
        # Who reads it, such as `head`, has enough; what is not written yet must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (LabError, OSError) as error:
        _end(condensed(error, N_SHOWN), 2)
    except KeyboardInterrupt:
        _end("stopped before anything began", 130)
    except (SystemExit, GeneratorExit):
        raise
    # A panic of polars is no Exception.
    except BaseException as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            _end(f"memory ran out ({condensed(error)}): do less at once, as with a smaller batch", 2)
        _end(f"{condensed(error)}; this is a bug of ours: {told_of_bug(error, terminal.line)}", 70)


def _end(told: str, code: int) -> NoReturn:
    print(f"lab: {told}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def told_of_bug(error: BaseException, line: str) -> str:
    """How to report what nobody foresaw, with a file that holds what is needed to find it."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    try:
        handle, name = tempfile.mkstemp(prefix="lab-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{line}\n{versions}\n\n{''.join(traceback.format_exception(error))}")
    except OSError as full:
        return f"please report it, with the command and its files (the traceback cannot be written: {condensed(full)})"
    return f"please report it with {name}, which holds the command, the versions and the traceback"


def asked(terminal: Terminal) -> Command | None:
    """The command that was typed; None after an overview of what can be. Raises as `parse` does."""
    verb, *rest = terminal.words or ["--help"]
    if broken := [word for word in terminal.words if whole(word) != word]:
        raise LabError(
            f"{broken[0]!r} is not UTF-8, which all that is written here is: want another name, or PYTHONUTF8=1"
        )
    if verb in HELP:
        terminal.overview("lab", ABOUT, {name: docstring(module) for name, module in VERBS.items()})
        return None
    module_name = VERBS[known(verb, VERBS, "lab")]
    settle_libraries()
    module = import_module(module_name)
    kind, about, prog = module.COMMAND, module.__doc__ or "", f"lab {verb}"
    if isinstance(kind, dict):
        word, *rest = rest or ["--help"]
        if word in HELP:
            terminal.overview(prog, about, {name: one.__doc__ or "" for name, one in kind.items()})
            return None
        kind = kind[known(word, kind, prog)]
        about, prog = kind.__doc__ or "", f"{prog} {word}"
    if HELP & {*rest}:
        terminal.about(about)
    return parse(kind, rest, prog=prog)


def known(word: str, words: Mapping[str, object], prog: str) -> str:
    """`word`, one of `words`; LabError with the one that may be meant, and all there are."""
    if word not in words:
        raise LabError(f"{prog} {word}: no such verb{meant(word, words)}; want one of: {', '.join(words)}")
    return word


def docstring(module: str) -> str:
    """That of a module of this folder, which is not imported."""
    file = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def settle_libraries() -> None:
    """Tells libraries, those that were imported and those that will be, how to wait, and to show no bars."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # peft 0.21 reads a property that transformers 5.23 deprecates.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()


class Terminated(KeyboardInterrupt):
    """SIGTERM came; whatever tidies up after Ctrl-C does it here too."""


def advice(command: Command, typed: str) -> str:
    """What a user who stopped `command`, given as `typed`, is told: how to go on, or that nothing was kept."""
    if command.RESUMES:
        return f"lab: stopped; to go on: {typed}"
    return f"lab: stopped; nothing was kept; to start again: {typed}"


@contextmanager
def stoppable(told: str) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM end the command in order: `told` on standard error, exit code 130 or 143.

    The first of them raises KeyboardInterrupt or `Terminated`, so that files half written are taken away. One more
    ends the process at once: what lies on disk is whole even so, but hidden `.partial` files may stay until the
    command is given again.
    """
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{told}\n".encode())
            _leave(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt as error:
        print(told, file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
    finally:
        for number, handler in before.items():
            # Where one came, the interpreter still has to end, and a second must find no default handler.
            signal.signal(number, _leave if came else handler)


def _leave(number: int, _: FrameType | None = None) -> None:
    """Ends the process without any tidying, but gives the terminal its cursor back."""
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)
    os._exit(128 + number)
