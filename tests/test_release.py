"""What is released: a wheel that answers a question outside of the checkout, and hints that fit how it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from relisten import extras

ROOT = Path(__file__).parent.parent
MAX_WHEEL = 16_000_000
"""Bytes."""
QUESTION = ["Which sound is heard just before the kick?", "--choices", "choir", "seven", "tabla", "guitar"]
EXTRAS = ["accelerate", "matplotlib", "openai", "pyarrow", "onnxruntime", "faster_whisper", "ray", "peft",
          "deepspeed", "tensorboard", "starlette", "uvicorn", "prometheus_client", "nltk",
          "sphinx", "pytest", "hypothesis"]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clean copy of what git tracks, so that build leftovers in the checkout are in no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("src/", "README", "LICENSE", "NOTICE", "pyproject")) and (ROOT / name).is_file():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    subprocess.run(command, cwd=folder / "copy", check=True)
    [built] = folder.glob("relisten-*.whl")
    return built


def test_the_wheel_answers_a_question_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith(("tests", "benchmarks", "studies"))]
        archive.extractall(tmp_path / "installed")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    where = [sys.executable, "-c", "import relisten; print(relisten.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(tmp_path / "installed"))
    asked = [sys.executable, "-m", "relisten", "ask", "example", *QUESTION, "--json"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choice"] == "choir"


def test_the_core_answers_and_explains_itself_without_any_extra(tmp_path: Path) -> None:
    """Every package of an extra is made impossible to import, as in `pip install relisten`."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # None in sys.modules: not to be found
    )
    lines = (
        "from relisten.cli import run\n"
        "for command in ('', 'ask', 'eval', 'score', 'scenes', 'data', 'data build', 'train', 'train sft'):\n"
        "    assert run([*command.split(), '--help']) == 0, command\n"
        f"assert run(['ask', 'example', *{QUESTION!r}]) == 0\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    done = subprocess.run([sys.executable, "-c", lines], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """`pip install` of the wheel with its real requirements takes about two minutes."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel], check=True)
    asked = [tmp_path / "venv" / "bin" / "relisten", "ask", "example", *QUESTION]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Answer: choir" in done.stdout, done.stderr


CHECKOUT = {"url": "file:///home/me/relisten", "dir_info": {"editable": True}}
FOLDER = {"url": "file:///home/a%20b/relisten", "dir_info": {}}
WHEEL = {"url": "file:///tmp/relisten-1.whl", "archive_info": {}}


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'relisten[lora]'"),
        (CHECKOUT, "pip install -e '/home/me/relisten[lora]'"),
        (FOLDER, "pip install '/home/a b/relisten[lora]'"),
        (WHEEL, "pip install 'relisten[lora] @ file:///tmp/relisten-1.whl'"),
    ],
)
def test_hints_fit_how_relisten_was_installed(
    origin: dict[str, object] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(extras.metadata, "distribution", lambda name: Installed())
    assert extras.install_hint("lora") == command


def test_no_message_names_an_extra_by_hand() -> None:
    """Messages ask `extras.install_hint`, because relisten is often installed from a checkout."""
    wrong = [
        path.relative_to(ROOT)
        for path in (ROOT / "src").rglob("*.py")
        if "pip install 'relisten[" in path.read_text(encoding="utf-8") and path.name != "extras.py"
    ]
    assert not wrong
