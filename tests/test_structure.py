"""The house: imports only point down, a module's name is found once, and the wheel brings one package."""

import ast
import collections
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("fakeface_jax", "video", "cli", "server")
FRONT_DOOR = "fakeface_jax/__init__.py"
"""It names, lazily, what lies above it."""

# The rooms that a room may import from, besides itself.
MAY_IMPORT = {
    "fakeface_jax": set(),
    "video": {"fakeface_jax"},
    "server": {"fakeface_jax", "video"},
    "cli": {"fakeface_jax", "video", "server"},
}
OPENS_THE_SERVICE = {"cli/serve.py", "cli/token.py", "cli/backup.py", "cli/arguments.py"}


def modules() -> list[Path]:
    found = []
    for folder in FOLDERS:
        found += [path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert len(found) > 150
    return found


def room_of(module: str) -> str:
    """The room of a dotted name below fakeface_jax."""
    second = module.split(".")[1:2]
    return second[0] if second and second[0] in FOLDERS else "fakeface_jax"


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "fakeface_jax"}


def test_imports_only_point_down():
    wrong = []
    for path in modules():
        room = path.parts[0]
        for name in imported(path):
            other = room_of(name)
            if other != room and other not in MAY_IMPORT[room] and str(path) != FRONT_DOOR:
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_the_command_line_uses_the_service_in_few_places():
    users = {str(path) for path in modules() if path.parts[0] == "cli" and any(map(_is_server, imported(path)))}
    assert users <= OPENS_THE_SERVICE


def _is_server(name: str) -> bool:
    return room_of(name) == "server"


def test_no_module_name_occurs_twice():
    counts = collections.Counter(path.name for path in modules() if path.name != "__init__.py")
    assert [name for name, count in counts.items() if count > 1] == []


def test_imports_name_the_package():
    """`import video` would work in a checkout alone."""
    wrong = []
    for path in [*modules(), *(one.relative_to(REPOSITORY) for one in (REPOSITORY / "scripts").rglob("*.py"))]:
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            wrong += [f"{path}: {name}" for name in names if name.split(".")[0] in FOLDERS[1:]]
    assert wrong == []


@pytest.mark.long
def test_the_wheel_brings_one_package(tmp_path):
    """Needs a registry for setuptools, as every build does."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # a build leaves files behind
    source.mkdir()
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, source / folder, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 100 * 2**20
    target = tmp_path / "site-packages"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True, timeout=600)
    top = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"fakeface_jax", "bin"}
    program = "import fakeface_jax.cli.main, fakeface_jax.server.jobs, fakeface_jax.video; print(fakeface_jax.__file__)"
    said = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(target), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(str(target))
    for name in ("video/report/report.schema.json", "video/render/report.html.j2", "server/web/index.html"):
        assert (target / "fakeface_jax" / name).is_file()
