"""One engine owns a journal at a time: an OS lock on a file beside it.

The lock is the kernel's (`flock`), so it goes with its process however that ends, and is not inherited over exec. The
file's content (pid and host) is only there to tell the second engine whom to ask; it is never trusted as the lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from engine.errors import JournalError, JournalOwnedError


class Ownership:
    """The right to write a journal. `release` gives it back; so does the end of the process."""

    def __init__(self, journal: Path) -> None:
        """Take the lock.

        Raises:
            JournalOwnedError: another engine has it, in this process or another.
            JournalError: the lock file cannot be written.
        """
        self._path = journal.with_name(journal.name + ".lock")
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(
                f"cannot make {self._path} ({error.strerror}); the journal's folder must exist and be writable"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        except BlockingIOError:
            pid, host = _owner(descriptor)
            os.close(descriptor)
            raise JournalOwnedError(str(journal), pid, host) from None
        except OSError as error:
            # Closed first, since the lock would stay as long as the process.
            os.close(descriptor)
            raise JournalError(
                f"cannot lock {self._path} ({error.strerror}); see that its disk has room, and can lock files"
            ) from error
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the lock back. The file stays, since removing it would race with the next owner."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _owner(descriptor: int) -> tuple[int, str]:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return int(owner["pid"]), str(owner["host"])
    except (ValueError, KeyError, TypeError):
        # The owner has taken the lock, and not yet written its name.
        return 0, "unknown"
