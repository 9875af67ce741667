"""The children of one engine's activities: started by their parents, waited for, and cancelled with them.

A child is an activity as any other; what makes it a child is that its parent's history says so, in one commit with its
start. What becomes of it when its parent ends is the parent's to see to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.activities.permitted import KEPT, SAME, TABLE
from engine.journal import ENDED, Store, StoredRecord
from engine.messages import ActivityStatus

if TYPE_CHECKING:
    from engine.activities.definition import Activity
    from engine.activities.obeying import Activities
    from engine.activities.run import Run


class Family:
    """Starts children, and tells when they have ended."""

    def __init__(self, journal: Store) -> None:
        """Prepare to start children.

        Args:
            journal: where activities are recorded.
        """
        self._journal = journal
        self._activities: Activities | None = None
        self._watchers: dict[str, list[Callable[[str], object]]] = {}

    def belongs_to(self, activities: Activities) -> None:
        """Say among whom children are started."""
        self._activities = activities

    @property
    def _all(self) -> Activities:
        assert self._activities is not None
        return self._activities

    # ------------------------------------------------------------------------------------------------ starting

    def knows(self, definition: Activity[..., Any]) -> bool:
        """Whether the engine was given this definition, so that it can resume activities of it."""
        return self._all.definitions.get(definition.name) is definition

    def free_id(self, id: str) -> str:
        """This id, or where it is taken by a child that is not to be waited for again, the next like it."""
        chosen, number = id, 1
        while self._all.known(chosen) is not None:
            number += 1
            chosen = f"{id}~{number}"
        return chosen

    def is_free(self, id: str) -> bool:
        """Whether no activity has this id."""
        return self._all.known(id) is None

    def start(
        self,
        run: Run,
        definition: Activity[..., Any],
        args: str,
        *,
        id: str,
        key: str | None,
        priority: int,
        tags: Mapping[str, str] | None,
        is_bound: bool,
    ) -> int:
        """Record a child's start, under an id that is free.

        Args:
            run: the parent's.
            definition: what to run.
            args: the encoded arguments.
            id: the child's id.
            key, priority, tags: as recorded.
            is_bound: whether it has no more time than its parent.

        Returns:
            The `seq` to wait for.
        """
        return self._all.start_child(
            definition,
            args,
            id=id,
            by=self._asker_of(run.id),
            parent=run.id,
            deadline=run.deadline if is_bound else None,
            key=key,
            priority=priority,
            tags=tags,
        )

    def _asker_of(self, id: str) -> str | None:
        """Who asked for an activity."""
        state = self._journal.activity(id)
        asked = None if state is None or state.accepted is None else self._journal.record(state.accepted)
        return None if asked is None else asked.by

    # ------------------------------------------------------------------------------------------------ ending

    def ending(self, id: str) -> StoredRecord | None:
        """The record with which a child ended, if it has, and durably."""
        state = self._journal.activity(id)
        if state is None or state.status not in ENDED or state.ended is None:
            return None
        return self._journal.record(state.ended)

    def watch(self, id: str, wake: Callable[[str], object]) -> None:
        """Have a function called with the instant at which a child ends, unless it has ended already."""
        self._watchers.setdefault(id, []).append(wake)

    def forget(self, id: str, wake: Callable[[str], object]) -> None:
        """Call the function no more."""
        watchers = self._watchers.get(id, [])
        if wake in watchers:
            watchers.remove(wake)
            if not watchers:
                del self._watchers[id]

    def tell(self, id: str) -> None:
        """A status of an activity is durable."""
        if id in self._watchers:
            ended = self.ending(id)
            if ended is not None:
                for wake in self._watchers.pop(id):
                    wake(ended.at)

    def is_over(self, id: str) -> bool:
        """Whether a child has ended, and durably; so, too, where activities are looked at and not run."""
        return self._activities is None or self.ending(id) is not None

    # ------------------------------------------------------------------------------------------------ cancelling

    def cancel(self, id: str, *, cause: str = "parent", command: int | None = None) -> None:
        """Have a child cancelled, unless it has ended or is being cancelled, or is only looked at."""
        if self._activities is None:
            return
        status = self._all.standing(id)
        effect = SAME if status is None or status in ENDED else TABLE["cancel"][status]
        if effect == SAME:
            return
        if effect == ActivityStatus.CANCELLED:
            self._all.end_at_once(id, cause=cause, command=command)
        else:
            self._all.cancel(id, cause=cause, command=command, kept=effect == KEPT)

    def ask_to_cancel(self, id: str, parent: str, reason: str | None) -> None:
        """Record a parent's command that a child be cancelled, and obey it; one that has ended is left alone."""
        if self._all.standing(id) not in ENDED:
            self.cancel(id, command=self._all.record_cancel_by_parent(id, parent, self._asker_of(parent), reason))
