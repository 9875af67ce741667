"""Steps in worker processes: for what computes, so that it neither holds up the loop nor outlives a timeout.

The processes come from trio-parallel: as many as there are processors, started when the first step needs one, and used
again. A timeout or a cancel kills the process. One whose engine is gone, even by a `kill -9`, ends itself. What goes
over is where to import the function from, and its arguments as they are recorded; what comes back is the encoded
result, or the error as it is recorded. So nothing but what a partial or a method holds already needs to be picklable.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio_parallel  # type: ignore[import-untyped]  # it has no annotations

from engine.activities.definition import Step, described
from engine.activities.heartbeats import EVERY
from engine.activities.step_info import StepInfo, in_attempt
from engine.codec import encode_error
from engine.errors import DefinitionError, PayloadError, StepFailedError
from engine.signatures import Signature

logger = logging.getLogger("playbill.activities")


@attrs.frozen
class Job:
    """An attempt at a step, as its process is told of it.

    Attributes:
        module, name: where the function is to be imported from.
        bound: what a partial holds already.
        keywords: those of its keywords.
        is_method: whether the first of `bound` is the instance that a method belongs to.
        args: the arguments, as JSON text.
        info: what the step can ask of itself.
        beats: the file that heartbeats are left in.
    """

    module: str
    name: str
    bound: tuple[Any, ...]
    keywords: Mapping[str, Any]
    is_method: bool
    args: str
    info: StepInfo
    beats: str = ""

    @classmethod
    def of(cls, step: Step[..., Any], args: tuple[Any, ...], info: StepInfo) -> Job:
        """Describe an attempt.

        Raises:
            DefinitionError: the function cannot be imported by its name.
        """
        function: Any = step.function
        bound: tuple[Any, ...] = ()
        keywords: Mapping[str, Any] = {}
        if isinstance(function, functools.partial):
            function, bound, keywords = function.func, function.args, function.keywords
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
        if not (module and name) or _found(module, name) is not function:
            raise DefinitionError(
                f"{described(function)}: a step in a process is imported there by its name; define it in a module, "
                "outside of other functions"
            )
        return cls(
            module, name, bound, keywords, step.is_method, step.signature.encode(args), attrs.evolve(info, beat=None)
        )


Done = tuple[str, Any]
"""How an attempt ended: `value` and the result as JSON text, `payload` and why that cannot be, or `error` and its
tree."""


class Workers:
    """The worker processes of one engine."""

    def __init__(self) -> None:
        self._opened: AbstractAsyncContextManager[trio_parallel.WorkerContext] | None = None
        self._context: trio_parallel.WorkerContext | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._jobs = itertools.count()

    async def run(self, job: Job, beat: Callable[[str], None]) -> Done:
        """Do a job in a process. Cancelling kills the process.

        Args:
            job: the job.
            beat: called with the details of heartbeats, a second late at most.

        Raises:
            StepFailedError: the process ended in the middle of it.
        """
        context = await self._begin()
        assert self._folder is not None
        job = attrs.evolve(job, beats=str(Path(self._folder.name, str(next(self._jobs)))))
        failed: Exception | None = None
        done: Done = ("", None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, job.beats, beat)
            try:
                done = await context.run_sync(perform, job, kill_on_cancel=True)
            except trio_parallel.BrokenWorkerError as error:
                code = getattr(error.args[-1], "exitcode", None)
                what = f"it ended in the middle of the step, with exit code {code}"
                failed = StepFailedError("worker process", what)
            except Exception as error:  # what a partial holds cannot be pickled, which raises whatever it likes
                failed = error
            finally:
                with trio.CancelScope(shield=True):
                    await _hear(job.beats, beat)
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return done

    async def _begin(self) -> trio_parallel.WorkerContext:
        if self._context is None:
            self._folder = tempfile.TemporaryDirectory(prefix="playbill-")
            self._opened = trio_parallel.open_worker_context(init=end_with_parent)
            # Does not wait: nothing is started before it is needed.
            self._context = await self._opened.__aenter__()
        return self._context

    async def close(self) -> None:
        """End the processes, when no step is in them any more."""
        if self._opened is None:
            return
        opened, self._opened, self._context = self._opened, None, None
        try:
            await opened.__aexit__(None, None, None)
        except trio_parallel.BrokenWorkerError as error:
            # Nothing was lost by it: nobody waits for anything of theirs.
            logger.warning("a worker process ended badly: %s", error)
        finally:
            if self._folder is not None:
                self._folder.cleanup()


async def _listen(path: str, beat: Callable[[str], None]) -> None:
    """Hear the heartbeats of a process, every second."""
    while True:
        await trio.sleep(EVERY)
        await _hear(path, beat)


async def _hear(path: str, beat: Callable[[str], None]) -> None:
    left = await trio.to_thread.run_sync(_take, path)
    if left is not None:
        beat(left)


def _take(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            left = file.read()
        os.unlink(path)
    except FileNotFoundError:
        return None
    return left


# ---------------------------------------------------------------------------------------------------- in the process


def end_with_parent() -> None:
    """End this process when the engine's is gone, whatever it is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_watch, args=(parent.sentinel,), name="playbill-parent", daemon=True).start()


def _watch(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def perform(job: Job) -> Done:
    """Make an attempt, here and now."""
    function = _found(job.module, job.name)
    assert function is not None  # it was found there before the job was sent
    target = functools.partial(function, *job.bound, **job.keywords) if job.bound or job.keywords else function
    signature = Signature.of(function, skip=1) if job.is_method else Signature.of(target)
    try:
        with in_attempt(attrs.evolve(job.info, beat=functools.partial(leave, job.beats))):
            value = target(*signature.decode(job.args))
    except Exception as error:  # the edge where user code runs: whatever it raises is told
        return "error", encode_error(error)
    except BaseException as error:  # SystemExit and the like end the attempt, and nothing else
        return "error", encode_error(StepFailedError(type(error).__qualname__, str(error)))
    try:
        return "value", signature.result.encode(value, "result")
    except PayloadError as error:
        return "payload", (error.path, error.why)


def leave(path: str, text: str) -> None:
    """Leave a heartbeat where the engine looks for it; the one before goes."""
    with open(f"{path}-", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}-", path)


def _found(module: str, name: str) -> Callable[..., Any] | None:
    """The function of this name, without what decorates it; `None` where there is none."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    function: Callable[..., Any] | None = found.function if isinstance(found, Step) else found
    return function
