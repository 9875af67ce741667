"""What `@subscriber` takes, and how the events' data is typed."""

from __future__ import annotations

import datetime as dt
import functools
from dataclasses import dataclass
from typing import Any

import pytest

from engine.errors import DefinitionError, PayloadError, TopicError
from engine.journal import ENGINE_STREAM, StoredRecord
from engine.messages import Event
from engine.policies import Retry
from engine.subscribers import Subscriber, definitions, subscriber


@dataclass
class Paid:
    order: str
    cents: int


def event(data: Any) -> Event[Any]:
    return Event(id="e", topic="t", data=data, at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), source="/engine")


def record(text: str | None) -> StoredRecord:
    at = "2026-01-01T00:00:00.000000Z"
    return StoredRecord(7, ENGINE_STREAM, "event.published", "a.b", None, None, at, None, {"id": "e"}, text)


# ------------------------------------------------------------------------------------------------ describing


def test_a_decorator_describes_and_the_name_defaults_to_the_qualified_one() -> None:
    @subscriber("orders.*.paid", "orders.#", "orders.#")
    async def mail(event: Event[Paid]) -> None:
        """Sends mail."""

    assert mail.name == "test_a_decorator_describes_and_the_name_defaults_to_the_qualified_one.<locals>.mail"
    assert mail.patterns == ("orders.*.paid", "orders.#")
    assert mail.__doc__ == "Sends mail."
    assert mail.retry == Retry(5)


async def test_a_subscriber_stays_callable() -> None:
    called = []

    @subscriber("a")
    async def in_loop(event: Event[int]) -> None:
        called.append(event.data)

    @subscriber("a")
    def in_thread(event: Event[int]) -> None:
        called.append(event.data)

    await in_loop(event(1))
    await in_thread(event(2))
    assert called == [1, 2]


WRONG: dict[str, tuple[tuple[object, ...], dict[str, Any], str]] = {
    "no pattern": ((), {}, "give the patterns"),
    "used without parentheses": ((print,), {}, "give the patterns"),
    "a retry that is a number": (("a",), {"retry": 5}, "give a Retry"),
    "no time": (("a",), {"timeout": 0}, "seconds above 0"),
    "endless time": (("a",), {"timeout": float("inf")}, "seconds above 0"),
    "a text as timeout": (("a",), {"timeout": "5"}, "seconds above 0"),
    "a where that is a value": (("a",), {"where": True}, "plain function"),
    "a name that builds paths": (("a",), {"name": "a/b"}, "cannot be used"),
    "a start that is a word": (("a",), {"start": "soon"}, "give 'now', 'beginning'"),
    "a start below 0": (("a",), {"start": -1}, "give 'now', 'beginning'"),
    "a start that is a truth": (("a",), {"start": True}, "give 'now', 'beginning'"),
    "a naive start": (("a",), {"start": dt.datetime(2026, 1, 1)}, "aware"),
}


@pytest.mark.parametrize(("patterns", "options", "why"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_refused_where_it_is_written(patterns: Any, options: Any, why: str) -> None:
    def handle(event: Any) -> None: ...

    with pytest.raises(DefinitionError, match=why):
        subscriber(*patterns, **options)(handle)


def test_an_async_predicate_is_refused_as_it_would_let_everything_pass() -> None:
    async def where(event: Any) -> bool:
        return False

    with pytest.raises(DefinitionError, match="plain function"):
        subscriber("a", where=where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "option",
    [{"key": str}, {"concurrency": 2}, {"concurrency": 0}, {"rate": 1}, {"batch": 1}, {"starts": print}],
    ids=str,
)
def test_options_that_this_version_lacks_are_refused(option: Any) -> None:
    with pytest.raises(DefinitionError, match="not there yet"):
        subscriber("a", **option)


@pytest.mark.parametrize("pattern", ["", "a.b*", "a\n"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(TopicError):
        subscriber(pattern)(lambda event: None)


def test_a_subscriber_of_a_subscriber_is_refused() -> None:
    with pytest.raises(DefinitionError, match="is a function"):
        subscriber("a")(subscriber("b")(lambda event: None))


def test_two_of_one_name_are_refused_and_both_places_named() -> None:
    @subscriber("a", name="mailer")
    def first(event: Any) -> None: ...

    @subscriber("b", name="mailer")
    def second(event: Any) -> None: ...

    assert definitions([first, first]) == {"mailer": first}
    with pytest.raises(
        DefinitionError, match=r"first \(.*test_definition.py:\d+\) and .*second \(.*test_definition.py:\d+\)"
    ):
        definitions([first, second])


# ------------------------------------------------------------------------------------------------ data


def annotated() -> list[Subscriber[Any]]:
    @dataclass
    class Paid:  # of the same name as the module's, and nearer
        order: str
        cents: int
        near: bool = True

    @subscriber("a", name="a class of the function around")
    def near(event: Event[Paid]) -> None: ...

    @subscriber("a", name="a text within the text")
    def nested_text(event: Event["Paid"]) -> None: ...  # noqa: UP037

    @subscriber("a", name="a union")
    def of_a_union(event: Event[Paid | int]) -> None: ...

    @subscriber("a", name="a class defined later")
    def with_later(event: Event[Later]) -> None: ...  # type: ignore[valid-type]

    class Object:
        async def __call__(self, event: Event[Paid]) -> None: ...

        def method(self, event: Event[Paid]) -> None: ...

    def with_more(prefix: str, event: Event[Paid]) -> None: ...

    Later = Paid  # noqa: N806
    return [
        near,
        nested_text,
        of_a_union,
        with_later,
        subscriber("a", name="an object")(Object()),
        subscriber("a", name="a method")(Object().method),
        subscriber("a", name="a partial")(functools.partial(with_more, "p")),
    ]


@pytest.mark.parametrize("handler", annotated(), ids=lambda handler: handler.name)
def test_data_is_of_the_annotated_type_in_whatever_way_that_is_written(handler: Subscriber[Any]) -> None:
    made = handler.event_of(record('{"data":{"order":"o","cents":5},"headers":{"by":"x"}}'))
    assert (made.data.order, made.data.cents, made.data.near) == ("o", 5, True)
    assert dict(made.headers) == {"by": "x"}


def of_the_module(event: Event[Paid]) -> None: ...


def test_names_of_the_module_are_found() -> None:
    assert subscriber("a")(of_the_module).event_of(record('{"data":{"order":"o","cents":5}}')).data == Paid("o", 5)


def bare(event: Event) -> None: ...  # type: ignore[type-arg]


def nothing(event): ...  # type: ignore[no-untyped-def]


def anything(event: Any) -> None: ...


def event_of_anything(event: Event[Any]) -> None: ...


@pytest.mark.parametrize("handler", [bare, nothing, anything, event_of_anything, lambda event: None])
def test_without_a_type_data_is_what_json_holds(handler: Any) -> None:
    described: Subscriber[Any] = subscriber("a", name="x")(handler)
    assert described.event_of(record('{"data":{"order":"o","large":123456789012345678901}}')).data == {
        "order": "o",
        "large": 123456789012345678901,
    }


def test_an_event_has_all_that_was_recorded() -> None:
    facts = {"id": "e-1", "key": "k", "cause": "e-0"}
    at = "2026-01-01T00:00:00.000000Z"
    stored = StoredRecord(9, "order-1", "event.emitted", "a.b", "emit", 1, at, None, facts, '{"data":1}')
    made: Event[Any] = subscriber("a")(anything).event_of(stored)
    assert made == Event(
        id="e-1",
        topic="a.b",
        data=1,
        at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        source="order-1",
        cause="e-0",
        key="k",
        headers={},
        seq=9,
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [('{"data":{"order":"o","cents":"5"}}', "data.cents"), ('{"data":{"cents":5}}', "data"), (None, "data")],
)
def test_data_of_another_type_is_a_payload_error_with_its_path(text: str | None, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        subscriber("a")(of_the_module).event_of(record(text))
    assert caught.value.path.startswith(path)


def takes_a_list(events: list[Event[Paid]]) -> None: ...


def takes_data(paid: Paid) -> None: ...


def takes_an_unknown(event: Event[Unknown]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def takes_none() -> None: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (takes_a_list, "annotate it as Event"),
        (takes_data, "annotate it as Event"),
        (takes_an_unknown, "cannot be resolved"),
        (takes_none, "takes no event"),
    ],
)
def test_an_annotation_that_is_no_event_is_refused_when_it_is_first_used(handler: Any, why: str) -> None:
    described: Subscriber[Any] = subscriber("a")(handler)
    with pytest.raises(DefinitionError, match=why):
        _ = described.codec
