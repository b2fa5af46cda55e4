"""`python -m deploy.settings_reference`: writes docs/settings.md from the classes that read the settings.

The classes are the only source of names, defaults, limits and words. `make docs-settings` writes the file anew, and a
test says when it is not current.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from deploy.local.provision import SERVICES
from deploy.local.services import MODULES
from deploy.local.settings import PROJECT
from weelo_common.settings import Settings as AnySettings

REFERENCE = PROJECT / "docs" / "settings.md"
HEAD = """\
# Settings

Written by `make docs-settings` from the classes that read them: do not edit. A service reads its settings from the
environment once, at its start. One that is missing or wrong stops the start with a line that names it; its value is
never printed. An empty value is none. A name ends with its unit: `_S` seconds, `_MS` milliseconds.
"""
KINDS = {
    SecretStr: "secret text",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}
LIMITS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def reference() -> str:
    """The whole document: a section for each class that declares settings, those of all services first."""
    readers: dict[type[BaseSettings], list[str]] = {}
    for service in SERVICES:
        own: type[BaseSettings] = importlib.import_module(f"{MODULES[service]}.settings").Settings
        for cls in own.__mro__:
            if issubclass(cls, AnySettings) and _declared(cls):
                readers.setdefault(cls, []).append(service)
    sections = sorted(
        readers.items(), key=lambda item: (-len(item[1]), SERVICES.index(item[1][0]), item[0].__name__)
    )
    return HEAD + "".join("\n" + "\n".join(_section(cls, services)) + "\n" for cls, services in sections)


def _section(cls: type[BaseSettings], services: list[str]) -> Iterator[str]:
    alone = len(services) == 1
    words = " ".join((inspect.getdoc(cls) or "").replace("``", "`").split())
    yield f"## {services[0] if alone else cls.__name__.removesuffix('Settings')}"
    yield ""
    yield f"{words} Read by {'every service' if len(services) == len(SERVICES) else ', '.join(services)}."
    yield ""
    yield "| setting | kind | default | meaning |"
    yield "|---|---|---|---|"
    told = _docstrings(cls)
    for name in _declared(cls):
        info = cls.model_fields[name]
        cells = (f"`{name.upper()}`", _kind(info), _default(info), told.get(name, ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _declared(cls: type[Any]) -> list[str]:
    """The fields that the class itself declares, in its order."""
    return [name for name in inspect.get_annotations(cls) if name in getattr(cls, "model_fields", ())]


def _docstrings(cls: type[BaseSettings]) -> dict[str, str]:
    """What the source says of each field: the text that follows it, else the comment beside it."""
    source = textwrap.dedent(inspect.getsource(cls))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is the source of a class
    lines = source.splitlines()
    found: dict[str, str] = {}
    for field, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        words = lines[(field.end_lineno or 1) - 1].partition("  # ")[2]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            words = str(after.value.value)
        found[field.target.id] = " ".join(words.replace("``", "`").split())
    return found


def _kind(info: FieldInfo) -> str:
    """What may stand there: words to choose from, or a type with its limits."""
    annotation: Any = info.annotation
    limits = list(info.metadata)
    for argument in get_args(annotation) if type(None) in get_args(annotation) else ():
        if argument is not type(None):
            annotation = argument
    if get_origin(annotation) is not None and get_origin(annotation) is not Literal:
        annotation, *more = get_args(annotation)  # Annotated
        limits += more
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    kind = KINDS.get(annotation, "text")
    bounds = [
        f"{sign} {_number(getattr(limit, name))}"
        for limit in limits
        for cls, (name, sign) in LIMITS.items()
        if isinstance(limit, cls)
    ]
    lengths = [f"{limit.min_length} or more characters" for limit in limits if isinstance(limit, MinLen)]
    lengths += [f"up to {limit.max_length} characters" for limit in limits if isinstance(limit, MaxLen)]
    return ", ".join((kind, *bounds, *lengths))


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "**needed**"
    if info.default is None:
        return "none"
    if info.default == "":
        return "empty"
    return f"`{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


def main() -> int:
    """Returns the exit code."""
    REFERENCE.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"wrote {REFERENCE.relative_to(PROJECT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
