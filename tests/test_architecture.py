"""The shape of the package: imports go one way, files stay short, importing it stays cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "relisten"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MAX_LINES = 400
MAX_FUNCTION = 60

# From the values up; a module may import what stands in its own layer or above it in this list. The longest name that
# fits a module decides, so a package's layer holds for what lies in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("relisten", "relisten.types"),
    ("relisten.audio", "relisten.tags", "relisten.choices", "relisten.records", "relisten.run", "relisten.cpu"),
    ("relisten.operations", "relisten.models"),
    (
        "relisten.listener", "relisten.cache", "relisten.sampling", "relisten.row", "relisten.engine",
        "relisten.answer", "relisten.naive",
    ),
    (
        "relisten.rewards", "relisten.losses", "relisten.batch", "relisten.sft", "relisten.grpo",
        "relisten.training", "relisten.progress", "relisten.rollout", "relisten.checkpoint", "relisten.optimizer",
        "relisten.data", "relisten.sharding", "relisten.fsdp", "relisten.zero", "relisten.questions",
        "relisten.evals", "relisten.analysis", "relisten.localisation",
        "relisten.report", "relisten.study", "relisten.side_by_side", "relisten.plots", "relisten.comparison",
        "relisten.attention", "relisten.charts", "relisten.dynamics",
    ),
    (
        "relisten.strip", "relisten.page", "relisten.report_page", "relisten.report_examples",
        "relisten.study_report", "relisten.doctor", "relisten.bench", "relisten.bench_eval", "relisten.bench_train",
        "relisten.bench_steps", "relisten.commands", "relisten.cli",
    ),
)  # fmt: skip
HEAVY = {"torch", "transformers", "accelerate", "matplotlib"}


def layer(module: str) -> int:
    """Which layer a module belongs to."""
    while module:
        for index, names in enumerate(LAYERS):
            if module in names and (module != "relisten"):
                return index
        module = module.rpartition(".")[0]
    return 0


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever the import stands; `from relisten import x` gives relisten.x."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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

    return walk(ast.parse(path.read_text(encoding="utf-8")).body, True)


@pytest.mark.parametrize("module", [m for m in MODULES if m != "relisten"])
def test_imports_go_one_way(module: str) -> None:
    parts = module.split(".")
    assert any(".".join(parts[:n]) in names for names in LAYERS for n in range(2, len(parts) + 1)), (
        f"{module} has no layer: add it to LAYERS"
    )
    wrong = [name for name in imports(MODULES[module]) if name in MODULES and layer(name) > layer(module)]
    assert not wrong, f"{module} (layer {layer(module)}) imports what stands below it"


def test_no_cycles_within_a_layer_at_import_time() -> None:
    """Imports at the top of files, `TYPE_CHECKING` left out, have no cycles."""
    top: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        tree = ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        top[module] = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
                top[module] |= names or ({str(node.module)} & set(MODULES))
    top = {module: {name for name in names if name != "relisten"} for module, names in top.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join([*path, module])}"
        if module not in done:
            for name in top[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py")]), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    for function, _ in functions(path):
        doc = function.body[0].end_lineno - function.body[0].lineno + 1 if ast.get_docstring(function) else 0  # type: ignore[operator]
        assert (function.end_lineno or 0) - function.lineno + 1 - doc <= MAX_FUNCTION, function.name


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py")]), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_are_typed_and_explained(path: Path) -> None:
    assert (
        ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or not path.read_text(encoding="utf-8").strip()
    )
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


def test_what_is_imported_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {name.lower().replace("-", "_") for name in re.findall(r'"([A-Za-z0-9_-]+)(?:\[[a-z,]+\])?>=', text)} | {
        "yaml",
        "relisten",
    }
    for module, path in MODULES.items():
        outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - declared
        assert outside <= WITH_TRANSFORMERS, (
            f"{module} imports {outside - WITH_TRANSFORMERS}: declare it in pyproject.toml"
        )


def test_importing_relisten_imports_nothing_heavy_and_names_are_there() -> None:
    lines = (
        "import sys, relisten\n"
        f"assert not {HEAVY!r} & set(sys.modules), 'import relisten'\n"
        "relisten.Segment, relisten.Audio\n"
        f"assert not {HEAVY!r} & set(sys.modules), 'values'\n"
        "missing = [name for name in relisten.__all__ if getattr(relisten, name, None) is None]\n"
        "assert not missing, missing\n"
    )
    subprocess.run([sys.executable, "-c", lines], check=True)


def test_values_need_no_model() -> None:
    for module in ("relisten.types", "relisten.audio", "relisten.tags", "relisten.records", "relisten.strip"):
        lines = f"import sys, {module}\nassert not {HEAVY!r} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", lines], check=True)
