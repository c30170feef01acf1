"""Field docstrings of dataclasses, made visible in `help()`."""

from __future__ import annotations

import ast
import sys
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

_Class = TypeVar("_Class", bound=type)


def documented(cls: _Class) -> _Class:
    """A class decorator that appends the docstring below each field to the docstring of the class.

    Python keeps no docstrings of fields, so `help()` and notebooks would not show them. Inherited fields are included.
    If the source file cannot be read, the class is left as it is.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if file is not None and file.endswith(".py"):
            docs |= _field_docs(file).get(base.__qualname__, {})
    if docs:
        listed = "\n".join(f"- {name}: {' '.join(text.split())}" for name, text in docs.items())
        cls.__doc__ = f"{cls.__doc__}\n\nFields:\n\n{listed}"
    return cls


@lru_cache(maxsize=32)
def _field_docs(file: str) -> dict[str, dict[str, str]]:
    """The docstring of each field of each class at the top of a source file."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                field.target.id: below.value.value
                for field, below in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }
    return found
