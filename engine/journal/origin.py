"""Where commands and openings come from: the system's user and host."""

from __future__ import annotations

import getpass
import os
import socket


def system_user() -> str:
    """The system's user, by name where it has one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return f"uid {os.getuid()}"


def user_at_host() -> str:
    """Who asks, where nobody says."""
    return f"{system_user()}@{socket.gethostname()}"
