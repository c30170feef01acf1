"""The shape of the package: imports go one way, files stay short, importing it stays cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import relisten

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "relisten"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MAX_LINES = 400
MAX_FUNCTION = 60

# Which packages of the house each package may import, beside itself. Whatever lies at the top of `relisten` is a value.
VALUES = "values"
MAY_IMPORT: dict[str, set[str]] = {
    VALUES: set(),
    "models": {VALUES},
    "engine": {VALUES, "models"},
    "training": {VALUES, "models", "engine"},
    "evals": {VALUES, "models", "engine", "training"},
    "data": {VALUES, "models", "engine", "evals"},
    "reports": {VALUES, "models", "engine", "evals", "training", "data"},
    "remote": {VALUES, "models", "engine", "data"},
    "plugins": {VALUES, "models", "engine", "training", "remote"},
    "asking": {VALUES, "models", "engine", "reports", "remote"},
    "serving": {VALUES, "engine", "reports"},
    "commands": {VALUES, "models", "engine", "evals", "training", "data", "reports", "remote", "asking", "serving"},
}
COMMAND_LINE = {"relisten.cli", "relisten.__main__"}
HEAVY = {"torch", "transformers", "accelerate", "matplotlib"}


def package(module: str) -> str:
    """The package of the house that a module lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else VALUES


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path, typing: bool = True) -> Iterator[str]:
    """Every module that a file imports, wherever it stands; `from relisten import x` gives relisten.x.

    Without `typing`, those under `if TYPE_CHECKING:` are left out.
    """
    body = [node for node in parsed(path).body if typing or not _is_typing(node)]
    yield from _imported((inner for node in body for inner in ast.walk(node)), path)


def _imported(nodes: Iterable[ast.AST], path: Path = ROOT) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Every function, and whether it is public: at the top of the file or in a public class, no leading underscore."""

    def walk(body: list[ast.stmt], public: bool) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, public and not node.name.startswith("_")
                yield from walk(node.body, False)
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, public and not node.name.startswith("_"))

    return walk(parsed(path).body, True)


def test_every_package_is_known() -> None:
    found = {module.split(".")[1] for module, path in MODULES.items() if path.name == "__init__.py" and "." in module}
    assert found == set(MAY_IMPORT) - {VALUES, "asking"}, (
        "a new package needs its line in MAY_IMPORT: say what it may import"
    )


@pytest.mark.parametrize("module", [m for m in MODULES if m not in COMMAND_LINE | {"relisten"}])
def test_imports_go_one_way(module: str) -> None:
    """Lazy imports count as well; those of `TYPE_CHECKING` do too."""
    here = package(module)
    wrong = [
        name for name in imports(MODULES[module])
        if name in MODULES and (package(name) not in MAY_IMPORT[here] | {here} or name in COMMAND_LINE)
    ]  # fmt: skip
    assert not wrong, (
        f"{module} lies in `{here}`, which may import {sorted(MAY_IMPORT[here])}, but it imports {wrong}: move what"
        " both need into the lower package, or pass it in as an argument"
    )


def test_no_circles() -> None:
    """No module imports one that imports it in turn, however lazily; only `TYPE_CHECKING` is left out."""
    needs = {module: set(imports(path, typing=False)) & set(MODULES) - {"relisten"} for module, path in MODULES.items()}

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            for name in needs[waiting.pop()] - found:
                found.add(name)
                waiting.append(name)
        return found

    reach = {module: reached(module) for module in MODULES}
    circle = sorted(module for module in MODULES if module in reach[module])
    assert not circle, (
        f"these modules import each other: {circle}; put what both need into a module below them, or let the caller"
        " pass it in"
    )


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py")]), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    for function, _ in functions(path):
        doc = function.body[0].end_lineno - function.body[0].lineno + 1 if ast.get_docstring(function) else 0  # type: ignore[operator]
        assert (function.end_lineno or 0) - function.lineno + 1 - doc <= MAX_FUNCTION, function.name


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py")]), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_are_typed_and_explained(path: Path) -> None:
    assert ast.get_docstring(parsed(path)) or not parsed(path).body
    for function, public in functions(path):
        if not public:
            continue
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        untyped = [a.arg for a in every if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
        assert not untyped, f"{function.name}: {untyped}"
        assert function.returns is not None, f"{function.name} does not say what it returns"


WITH_TRANSFORMERS = {"huggingface_hub", "packaging", "safetensors", "tokenizers", "tqdm"}
"""Imported here and there; transformers cannot be installed without them."""
IMPORT_NAMES = {"pyyaml": "yaml", "ms-swift": "swift"}
EXTRAS_OF = {
    "training": {"train", "lora", "deepspeed", "tensorboard"},
    "data": {"data", "ears", "ray"},
    "serving": {"serve"},
    "plugins": {"swift"},
}
"""Extras that a package of the house may import anywhere. Others import an extra inside of a function, if at all."""


@cache
def declared(extra: str | None = None) -> set[str]:
    """Import names of what the core needs, or of what an extra adds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    names = (re.match(r"[A-Za-z0-9_-]+", line)[0].lower() for line in lines)  # type: ignore[index]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names} - {"relisten"}


@pytest.mark.parametrize("module", list(MODULES))
def test_what_is_imported_is_declared(module: str) -> None:
    """At the top of a file: the core, or an extra of its package. In functions: any extra that people install."""
    core = declared() | WITH_TRANSFORMERS | set(sys.stdlib_module_names) | {"relisten"}
    own = set[str]().union(*map(declared, EXTRAS_OF.get(package(module), set())))
    extras = ("train", "data", "ears", "ray", "lora", "deepspeed", "tensorboard", "serve", "scores", "operations")
    shown = set[str]().union(*map(declared, extras))
    tree = parsed(MODULES[module])
    top = {name.split(".")[0] for name in _imported(n for n in tree.body if not _is_typing(n))}
    lazy = {name.split(".")[0] for name in imports(MODULES[module])} - top
    assert top <= core | own, f"{module} needs {sorted(top - core - own)} at its top: declare it, or import it later"
    assert lazy <= core | shown, f"{module} imports {sorted(lazy - core - shown)}: declare it in pyproject.toml"


def test_importing_relisten_or_its_values_imports_nothing_heavy() -> None:
    values = ("types", "audio", "tags", "records", "reports.strip")
    lines = ["import sys, relisten", "relisten.Segment, relisten.Audio", *(f"import relisten.{v}" for v in values)]
    check = f"assert not {HEAVY!r} & set(sys.modules), %r\n"
    subprocess.run([sys.executable, "-c", "".join(f"{line}\n{check % line}" for line in lines)], check=True)


def test_every_public_name_is_there() -> None:
    missing = [name for name in relisten.__all__ if getattr(relisten, name, None) is None]
    assert not missing
