"""parse: words behind a verb -> a command, by tyro. Flags are fields of frozen dataclasses, docstrings their help."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from types import NoneType
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin, runtime_checkable

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from elicitation.cli.terminal import Terminal
from lab.records.errors import LabError

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
