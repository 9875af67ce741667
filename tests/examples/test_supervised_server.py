"""The supervised server as a process: who crashes takes nobody along, what is shared comes back, and all of it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import engine

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "supervised_server" / "server.py"
PATIENCE = 60.0


class Server:
    """The server's process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--port", "0"],
            env={**os.environ, "PYTHONPATH": str(Path(engine.__file__).parent.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = self.says()
        assert said.startswith("listening on 127.0.0.1:"), self.process.communicate(timeout=PATIENCE)
        self.port = int(said.rpartition(":")[2])

    def says(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def stop(self, number: int) -> tuple[int, str, str]:
        """Its exit code, and the rest of what it says."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


class Client:
    """One client."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._answers: IO[str] = self._socket.makefile("r", encoding="utf-8")

    def asks(self, line: str) -> str:
        """The answer to a line; empty where the connection is closed."""
        self._socket.sendall(f"{line}\n".encode())
        return self._answers.readline().rstrip("\n")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.communicate()


@pytest.fixture
def clients(server: Server) -> Iterator[tuple[Client, Client]]:
    pair = Client(server.port), Client(server.port)
    yield pair
    for client in pair:
        client.close()


def test_each_client_has_its_own_sum_and_all_share_one_average(clients: tuple[Client, Client]) -> None:
    one, other = clients
    assert [one.asks("3"), one.asks("4"), other.asks("5")] == ["3", "7", "5"]
    assert other.asks("average") == "4.00"


def test_a_connection_that_crashes_takes_nobody_with_it(server: Server, clients: tuple[Client, Client]) -> None:
    one, other = clients
    assert (one.asks("1"), other.asks("2")) == ("1", "2")
    assert other.asks("three") == ""
    assert "crashed: ValueError" in server.says()
    assert one.asks("10") == "11"
    newcomer = Client(server.port)
    assert newcomer.asks("7") == "7"
    newcomer.close()


def test_the_tally_that_crashes_is_restarted_and_its_client_is_told(
    server: Server, clients: tuple[Client, Client]
) -> None:
    one, other = clients
    assert one.asks("average") == "error: division by zero"
    assert server.says() == "/tally crashed: ZeroDivisionError('division by zero')"
    assert server.says() == "/tally restarted"
    assert other.asks("5") == "5"
    assert one.asks("average") == "5.00"


def test_a_tally_that_crashes_too_often_ends_the_server_with_its_name(
    server: Server, clients: tuple[Client, Client]
) -> None:
    one, _ = clients
    for _ in range(6):
        one.asks("average")
    out, err = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 1
    assert "/ escalated: ZeroDivisionError" in out
    assert "RestartIntensityError: child 'tally' failed more often" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_closes_every_connection(
    server: Server, clients: tuple[Client, Client], number: int
) -> None:
    one, other = clients
    assert (one.asks("1"), other.asks("2")) == ("1", "2")
    code, out, err = server.stop(number)
    assert (code, out, err) == (0, "stopped\n", "")
    assert one._answers.readline() == ""
