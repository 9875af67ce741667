"""The pages as programs: what stands in their code blocks, done in order, and what they say comes of it.

A page is run in one empty folder, by one shell, from its first block to its last:

- ```` ```LANGUAGE title=FILE ```` is written to that file, which a text before it names for the reader; with `append`
  too, it is put at the file's end.
- ```` ```python edit=FILE ```` is put into that file: each of its functions and classes takes the place of the one of
  that name; those that the file does not have yet go in front of the first one that is replaced.
- ```` ```console ```` is a transcript: a line that begins with `$ ` is a command, the lines after it are what is shown,
  on standard output and standard error together. A line of `…` stands for any lines, also none, and `…` in a line for
  any text. Each command must succeed, unless the transcript asks for its exit code next (`echo $?`) or says that it was
  killed.
- Blocks of other languages, and without one, are to be read, and not run.

What differs from run to run is not compared: instants, lengths of time, ids, hashes, numbers of records, who and where,
widths of columns.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

CHECKOUT = Path(__file__).resolve().parents[2]
ALL = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("examples/**/*.md")])
"""Every page there is."""

PATIENCE = 120.0
"""Seconds that a page may take on a machine that is busy; one takes about ten."""

NOT_RUN = {
    "python3 -m venv .venv && . .venv/bin/activate": "the test has its environment already",
    "pip install playbill": "the test has it already: the wheel",
    "pip install pytest pytest-trio": "the test has them already",
    "pip install -e '.[benchmark]'": "needs the package index, and minutes",
    "python -m tests.benchmarks durable": "takes minutes",
    "python -m tests.benchmarks actors": "takes minutes",
    "make demo": "tests/examples runs it",
}
"""Commands that pages show and tests do not run, and why."""

_SENTINEL = "=== end of command ==="
_FENCE = re.compile(r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=fence)[ ]*$", re.DOTALL | re.MULTILINE)
_MASKS = [
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", "<instant>"),
    (r"\b\d\d:\d\d:\d\d\.\d+", "<time>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<id>"),
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"\b[\w.-]+@[\w.-]+(:\d+)?", "<who>"),
    (r"\b\d+ min \d+ s\b|\b\d+(\.\d+)? ?m?s\b", "<length>"),
    (r"\b\d+(\.\d+)? (bytes|kB|MB)\b", "<size>"),
    (r"\b\d+ records\b", "<records>"),
    (r"-{3,}", "---"),
    (r"[ \t]+", " "),
    (r"(?m)^ | $", ""),
    (r"(?m)^\d+ (?=<instant>|<time>)", "<seq> "),
]


@attrs.frozen
class Block:
    """A code block of a page."""

    page: Path
    line: int
    language: str
    options: Mapping[str, str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"


@attrs.frozen
class Command:
    """A command of a transcript, and what the page says it shows."""

    place: str
    text: str
    shown: str
    asked_for_code: bool

    @property
    def is_killed(self) -> bool:
        return self.shown.endswith("Killed\n")


@attrs.frozen
class Written:
    """A file that a page has its reader write."""

    path: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, *options = match["info"].split() or [""]
        pairs = {name: value for name, _, value in (option.partition("=") for option in options)}
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, pairs, match["text"]))
    return found


def prose_of(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def is_run(page: Path) -> bool:
    """Whether a page has anything to be run. README.md and those of the examples have tests of their own."""
    return page.is_relative_to(CHECKOUT / "docs") and any(isinstance(deed, Command) for deed in deeds_of(page))


def deeds_of(page: Path) -> list[Command | Written]:
    """What the reader of a page does, in order."""
    files: dict[str, str] = {}
    deeds: list[Command | Written] = []
    for block in blocks_of(page):
        if "title" in block.options or "edit" in block.options:
            path = block.options.get("title") or block.options["edit"]
            files[path] = _changed(files.get(path, ""), block)
            deeds.append(Written(path, files[path]))
        elif block.language == "console":
            deeds.extend(command for command in commands_in(block) if command.text not in NOT_RUN)
    return deeds


def _changed(before: str, block: Block) -> str:
    """A file's text after what a block does to it."""
    if "edit" in block.options:
        return edited(before, block.text)
    return f"{before}\n\n{block.text}" if "append" in block.options else block.text


def commands_in(block: Block) -> Iterator[Command]:
    """The commands of a transcript."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert parts[0] == "", f"{block.place}: a transcript begins with a command: `$ …`"
    for part, following in zip(parts[1:], [*parts[2:], ""], strict=True):
        lines = part.splitlines(keepends=True)
        ends = next(at for at, line in enumerate(lines) if not line.endswith("\\\n"))
        text, shown = "".join(lines[: ends + 1]).strip(), "".join(lines[ends + 1 :])
        yield Command(block.place, text, shown, following.startswith("echo $?"))


def edited(program: str, changes: str) -> str:
    """A program in which some functions and classes are replaced, and others added."""
    new = {node.name: _source(changes, node) for node in ast.parse(changes).body if hasattr(node, "name")}
    assert len(new) == len(ast.parse(changes).body), "only functions and classes are edited in"
    old = {node.name: _source(program, node) for node in ast.parse(program).body if hasattr(node, "name")}
    replaced = [name for name in new if name in old]
    added = "".join(f"{new[name]}\n\n\n" for name in new if name not in old)
    assert replaced, "nothing of it is in the file"
    for name in replaced:
        program = program.replace(old[name], (added if name == replaced[0] else "") + new[name])
    return program


def _source(program: str, node: ast.stmt) -> str:
    """The lines of a definition, decorators included."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return "\n".join(program.splitlines()[first - 1 : node.end_lineno])


# ------------------------------------------------------------------------------------------------ running


def run_page(page: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Do what a page says, in an empty folder.

    Raises:
        AssertionError: something other came of it than the page says; names the line and shows both.
    """
    run_deeds(page, deeds_of(page), folder, environment)


def run_deeds(page: Path, deeds: list[Command | Written], folder: Path, environment: Mapping[str, str]) -> None:
    """As `run_page`, with what is to be done."""
    shown = _outputs(deeds, folder, environment)
    commands = [deed for deed in deeds if isinstance(deed, Command)]
    for command, (output, code) in zip(commands, shown, strict=False):
        expected = command.shown
        assert matches(expected, output), (
            f"{command.place}\n$ {command.text}\nshows:\n{output}\nand the page says:\n{expected}"
        )
        assert code == 0 or command.asked_for_code or command.is_killed, (
            f"{command.place}\n$ {command.text}\nended with {code}:\n{output}"
        )
    assert len(shown) == len(commands), f"the shell of {page} ended early"


def _outputs(deeds: list[Command | Written], folder: Path, environment: Mapping[str, str]) -> list[tuple[str, int]]:
    """What each command showed, and its exit code."""
    script = folder.with_suffix(".sh")
    script.write_text("exec 2>&1 </dev/null\n" + "".join(map(_scripted, deeds)), encoding="utf-8")
    with subprocess.Popen(
        ["bash", "--norc", str(script)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            everything, _ = shell.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            everything, _ = shell.communicate()
            raise AssertionError(f"it took longer than {PATIENCE} s:\n{everything}") from None
    ended = re.findall(rf"(.*?)\n{_SENTINEL} (\d+)\n", everything, re.DOTALL)
    return [(output, int(code)) for output, code in ended]


def _scripted(deed: Command | Written) -> str:
    if isinstance(deed, Written):
        return f"cat >{shlex.quote(deed.path)} <<'END OF FILE'\n{deed.text}END OF FILE\n"
    # The subshell gives `$?` back to the next command.
    return f"{deed.text}\ncode=$?; printf '\\n{_SENTINEL} %d\\n' $code; (exit $code)\n"


def matches(expected: str, output: str) -> bool:
    """Whether a command shows what the page says, but for what differs from run to run."""
    parts = [masked(part) for part in re.split(r"^…$\n?", expected, flags=re.MULTILINE)]
    pattern = r"(?:.*\n)*".join(re.escape(part).replace("…", ".*") for part in parts)
    return re.fullmatch(pattern, masked(output)) is not None


def masked(text: str) -> str:
    """A text without what differs from run to run."""
    # What a shell without a terminal says of a killed process is more than what one with a terminal says.
    text = re.sub(r"^.*: line \d+:\s+\d+ Killed\b.*$", "Killed", text, flags=re.MULTILINE)
    for pattern, mask in _MASKS:
        text = re.sub(pattern, mask, text)
    return text


def environment_of(installed: Path, commands: Path) -> dict[str, str]:
    """The environment of whoever has installed the package: `installed` holds it, `commands` the command."""
    commands.mkdir(parents=True, exist_ok=True)
    command = commands / "playbill"
    command.write_text(f"#!{sys.executable}\nfrom engine.cli import main\nmain()\n", encoding="utf-8")
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PLAYBILL", "BANK"))}
    return {
        **kept,
        "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(installed),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
