"""A small TCP server whose every connection is a supervised actor, with two mistakes left in it on purpose.

It adds numbers: each line that a client sends is a number, the answer is the sum of that client's numbers so far.
`average` asks for the average of all numbers of all clients.

    /tally             the numbers of all clients; permanent, so that it is restarted
    /connections       a supervisor of its own, which bears any number of crashes
    /connections/N     one client; temporary, since nobody can restart a client
    /listener          accepts clients; permanent

A line that is no number crashes its connection, and `average` before any number crashes the tally.
"""

from __future__ import annotations

import argparse
import itertools
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from engine.actors import (
    ChildSpec,
    Intensity,
    Mailbox,
    Ref,
    Request,
    RestartType,
    SupervisionEvent,
    SupervisorRef,
    SupervisorSpec,
    open_supervisor,
)
from engine.errors import ActorCrashedError

HOST = "127.0.0.1"

LONGEST_LINE = 1_000
"""Bytes; a client that sends more without a line's end is none of ours."""


def tell(text: str) -> None:
    print(text, flush=True)


def tell_event(event: SupervisionEvent) -> None:
    """What the supervisors do, on standard output."""
    tell(f"{event.path} {event.what}" + (f": {event.error!r}" if event.error is not None else ""))


# ------------------------------------------------------------------------------------------------ the tally


@dataclass(frozen=True)
class Add(Request[None]):
    """Asks that a number be counted."""

    number: int


@dataclass(frozen=True)
class Average(Request[float]):
    """Asks for the average of all numbers."""


async def tally(mailbox: Mailbox[Add | Average]) -> None:
    total = count = 0
    async for message in mailbox:
        match message:
            case Add(number):
                total, count = total + number, count + 1
                mailbox.reply(None)
            case Average():
                mailbox.reply(total / count)  # the first mistake


# ------------------------------------------------------------------------------------------------ a connection


async def serve(mailbox: Mailbox[object], stream: trio.SocketStream, numbers: Ref[Add | Average]) -> None:
    """One client, from its first line to its last. Its socket is closed whatever happens here."""
    async with stream:
        total, rest = 0, b""
        async for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
            for line in lines:
                if line.strip() == b"average":
                    await stream.send_all(await average(numbers))
                    continue
                number = int(line)  # the second mistake
                await numbers.ask(Add(number))
                total += number
                await stream.send_all(b"%d\n" % total)


async def average(numbers: Ref[Add | Average]) -> bytes:
    """The answer to `average`; a tally that crashes over it is no reason for its client to crash too."""
    try:
        return b"%.2f\n" % await numbers.ask(Average())
    except ActorCrashedError as error:
        return f"error: {error.__cause__}\n".encode()


# ------------------------------------------------------------------------------------------------ the server


async def listen(
    mailbox: Mailbox[object],
    port: int,
    ids: Iterator[int],
    connections: SupervisorRef,
    numbers: Ref[Add | Average],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accepts clients, and has each served by an actor of its own; ready when it listens."""
    (listener,) = await trio.open_tcp_listeners(port, host=HOST)
    async with listener:
        tell(f"listening on {HOST}:{listener.socket.getsockname()[1]}")
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener, ids, connections, numbers)
            await mailbox.stopping.wait()
            nursery.cancel_scope.cancel()


async def accept(
    listener: trio.SocketListener, ids: Iterator[int], connections: SupervisorRef, numbers: Ref[Add | Average]
) -> None:
    for id in ids:
        stream = await listener.accept()
        # Cancelled at once when the server stops: a client may be silent for ever.
        spec = ChildSpec(str(id), serve, stream, numbers, restart=RestartType.TEMPORARY, shutdown=0)
        connections.start_child_soon(spec)


async def main(port: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_supervisor(
            intensity=Intensity(5, within=10),
            children=[ChildSpec("tally", tally), SupervisorSpec("connections", intensity=Intensity(math.inf))],
            on_event=tell_event,
        ) as supervisor:
            numbers, connections = supervisor.registry["/tally"], supervisor.registry["/connections"]
            assert isinstance(numbers, Ref)
            assert isinstance(connections, SupervisorRef)
            # The ids go on where the listener itself is restarted: clients of before may be there still.
            await supervisor.start_child(ChildSpec("listener", listen, port, itertools.count(1), connections, numbers))
            async for _ in signals:
                break
    tell("stopped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Add numbers over TCP, under supervision.")
    parser.add_argument("--port", type=int, default=8080, help="0 for any that is free; default: %(default)s")
    trio.run(main, parser.parse_args().port)
