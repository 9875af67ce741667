"""TARGET: the activity that `playbill run` starts, named by where it is defined.

`package.module:activity` is imported as `python -m` would, with the current folder first on the path.
`file.py:activity` is imported under the name that it would have for a program beside it: the file's folder (of a file
in a package, the folder around the outermost package) goes first on the path, so that it can import its neighbours, and
the classes that it defines are recorded under names by which they are found again.

The module runs as it is imported; whatever it raises becomes one line that says where.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import click

from engine.activities.definition import Activity, Step


class TargetError(click.ClickException):
    """The target cannot be used. Its text is one line that says what to do; `__cause__` is what the module raised."""

    exit_code = 2


@attrs.frozen
class Target:
    """An activity, and the module in which it was found."""

    module: ModuleType
    activity: Activity[..., Any]


def load_target(text: str) -> Target:
    """Import what a TARGET names.

    Raises:
        TargetError: it is not of the form, does not import, or names no activity.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place.rstrip(":") or not name.strip():
        raise TargetError(f"{text!r} is no TARGET; write package.module:activity or file.py:activity")
    if not _is_file(place) and not _IS_MODULE(place):
        raise TargetError(
            f"{place!r} of {text!r} is neither a module's full name nor a file that ends with .py; "
            "write package.module:activity or file.py:activity"
        )
    module = _import_file(Path(place)) if _is_file(place) else _import_module(place)
    return Target(module, _activity(module, place, name))


_IS_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*").fullmatch


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


# ------------------------------------------------------------------------------------------------ importing


def _import_module(name: str) -> ModuleType:
    _put_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # What it imports in turn may be missing too, and that is another mistake.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(
                f"there is no module {error.name!r} on Python's path, nor in the current folder; "
                f"name a module that can be imported, or a file as ./file.py:activity"
            ) from error
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:  # the module is the user's code, and may raise anything
        raise _failed(name, error) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        why = "is a folder" if path.is_dir() else "is no Python file" if path.exists() else "does not exist"
        raise TargetError(f"{str(path)!r} {why}; TARGET names a Python file, as file.py:activity")
    path = path.resolve()
    folder, name = _module_name(path)
    _put_on_path(folder)
    try:
        known = sys.modules.get(name)
        if known is not None and not _is_of(known, path):
            # A file called as a module that runs already, as `json.py`; that one must stay what it is for all others.
            return _load(path, f"{name}_target")
        module = known if known is not None else _import_or_load(path, name)
    except (Exception, SystemExit) as error:  # the module is the user's code, and may raise anything
        raise _failed(str(path), error) from error
    return module


def _import_or_load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path:
        return importlib.import_module(name)
    return _load(path, name)


def _load(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _module_name(path: Path) -> tuple[Path, str]:
    """The folder to have on the path, and the module's name as seen from there."""
    folder = path.parent
    # A name must be an identifier to be imported by; `my-app.py` is loaded as `my_app`.
    parts = [re.sub(r"\W", "_", path.stem)]
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return folder, ".".join(parts)


def _put_on_path(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


def _failed(place: str, error: BaseException) -> TargetError:
    """Where, of all that was imported, the user's code failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return TargetError(f"{error.filename}, line {error.lineno}: {error.msg}; mend it, or see it with --debug")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename not in (__file__, importlib.__file__)
    ]
    where = f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    message = " ".join(str(error).split())
    return TargetError(
        f"{place} cannot be imported: {type(error).__name__}: {message}{where}; mend it, or see it with --debug"
    )


# ------------------------------------------------------------------------------------------------ the activity


def _activity(module: ModuleType, place: str, name: str) -> Activity[..., Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise TargetError(f"{place} has no {name!r}; {_there_are(module, place, name)}")
    if isinstance(found, Activity):
        return found
    if isinstance(found, Step):
        raise TargetError(
            f"{name!r} of {place} is a step, which only an activity runs; {_there_are(module, place, name)}"
        )
    if inspect.iscoroutinefunction(found):
        raise TargetError(f"{name!r} of {place} is a function, no activity; decorate it with @activity")
    what = "class" if isinstance(found, type) else type(found).__name__
    raise TargetError(f"{name!r} of {place} is a {what}, no activity; {_there_are(module, place, name)}")


def _there_are(module: ModuleType, place: str, name: str) -> str:
    """The activities of the module; the one that was probably meant first."""
    known = [key for key, value in vars(module).items() if isinstance(value, Activity)]
    if not known:
        return f"{place} defines no activity: decorate an async function with @activity"
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"its activities are {', '.join(known[:10])}"
