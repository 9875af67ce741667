"""What is shipped: the wheel's contents, its metadata, and what an installed Playbill finds of itself."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import engine
import workflows


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, object]:
    """The table `project` of pyproject.toml."""
    project: dict[str, object] = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


@pytest.fixture(scope="module")
def wheel_file(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("playbill-*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> dict[str, bytes]:
    """The wheel's files, by name."""
    with zipfile.ZipFile(wheel_file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_installed_version_is_that_of_the_project(project: dict[str, object]) -> None:
    assert importlib.metadata.version("playbill") == project["version"]


def test_the_command_playbill_can_be_loaded() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="playbill")
    assert callable(command.load())


def test_the_command_playbill_stands_beside_its_python() -> None:
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("playbill")), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "run" in ended.stdout


@pytest.mark.parametrize("package", [engine, workflows], ids=lambda package: package.__name__)
def test_both_packages_say_that_they_are_typed(package: object) -> None:
    (folder,) = package.__path__  # type: ignore[attr-defined]
    assert (Path(folder) / "py.typed").is_file()


def test_the_wheel_holds_the_modules_of_both_packages_and_the_plugin(repository: Path, wheel: dict[str, bytes]) -> None:
    modules = {
        path.relative_to(repository).as_posix()
        for name in ("engine", "workflows")
        for path in (repository / name).rglob("*.py")
    }
    # And the plugin, which pytest imports without importing a package.
    assert {name for name in wheel if name.endswith(".py")} == modules | {"pytest_playbill.py"}
    assert {"engine/py.typed", "workflows/py.typed"} <= wheel.keys()


def test_the_wheel_holds_every_template_as_it_stands_in_the_checkout(repository: Path, wheel: dict[str, bytes]) -> None:
    templates = {
        f"engine/_templates/{path.relative_to(repository / 'templates').as_posix()}": path.read_bytes()
        for path in (repository / "templates").rglob("*")
        if path.is_file()
    }
    assert templates
    assert {name: content for name, content in wheel.items() if name.startswith("engine/_templates/")} == templates


APPLICATION = """
from engine import Context, activity, step

@step
def greet(name: str) -> str:
    return f"hello, {name}"

@activity(name="greeting")
async def greeting(ctx: Context, name: str) -> str:
    return await ctx.step(greet, name)
"""


def test_a_wheel_away_from_the_checkout_runs_an_application_and_writes_its_report(
    wheel_file: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel_file) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "application.py").write_text(APPLICATION, encoding="utf-8")
    (tmp_path / "names.csv").write_text("name\nAda\nGrace\n", encoding="utf-8")
    run = ["run", "application.py:greeting", "--input", "names.csv", "--journal", "j.db", "--report", "report.html"]
    program = "import engine, engine.cli; print(engine.__file__, flush=True); engine.cli.main()"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program, *run],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(str(tmp_path / "installed"))
    assert "hello, Ada" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_wheel_holds_the_licence(repository: Path, wheel: dict[str, bytes], project: dict[str, object]) -> None:
    name = f"playbill-{project['version']}.dist-info/licenses/LICENSE"
    assert wheel[name] == (repository / "LICENSE").read_bytes()


def test_the_extra_all_exists() -> None:
    assert "all" in importlib.metadata.metadata("playbill").get_all("Provides-Extra", [])


def test_no_dependency_is_pinned_from_above(project: dict[str, object]) -> None:
    """A library that caps what it depends on takes the choice from whoever installs it."""
    dependencies = project["dependencies"]
    assert isinstance(dependencies, list)
    assert [dependency for dependency in dependencies if "<" in dependency or "==" in dependency] == []
