"""When the questions of a stage fail alike: the end of the stage, before smaller questions are paid for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter

from segkit.core.text import quantity
from segkit.errors import EndpointError

#: So many questions in a row, each with all its attempts, end a stage that had valid items before.
FAILURES_IN_A_ROW = 5
#: So many questions that failed alike end a stage in which nothing was valid yet.
FIRST_FAILURES = 3
#: Faults of a model or an endpoint, not of a question: a smaller one would end alike.
SYSTEMATIC = frozenset({"empty"})
_UNREACHED = frozenset({"down", "no_answer", "too_long", "refused_request"})
#: The least that a stage may spend on the parts of cut questions, in questions.
LEAST_EXTRA = 64


class Breaker:
    """Counts the questions of a stage whose attempts all failed, and says whether cutting them makes sense."""

    def __init__(self, run_id: str, concurrency: int, planned: int, most_extra: int | None) -> None:
        self._run_id, self._concurrency = run_id, concurrency
        self.most_extra = max(2 * planned, LEAST_EXTRA) if most_extra is None else most_extra
        self.extra = 0
        self.proven = False
        self.last_reason = ""
        self._in_a_row = 0
        self._alike: Counter[str] = Counter()
        self._active = self._suspended = 0
        self._error: EndpointError | None = None
        self._changed = asyncio.Condition()

    async def begin(self) -> None:
        """Count a question that is being asked."""
        self._active += 1

    async def end(self) -> None:
        """Count a question as asked, with whatever end."""
        async with self._changed:
            self._active -= 1
            self._changed.notify_all()

    async def succeeded(self) -> None:
        """Note that an item was valid."""
        self._in_a_row = 0
        if not self.proven:
            self.proven = True
            async with self._changed:
                self._changed.notify_all()

    async def failed(self, kind: str, reason: str) -> bool:
        """Note that a question failed in all its attempts; return whether smaller questions may do better.

        While nothing was valid in the stage, a question waits here until another one has a valid item, or until no
        other one is being asked. Raises EndpointError when the stage has to end.
        """
        self._in_a_row, self.last_reason = self._in_a_row + 1, reason
        if self.proven:
            if self._in_a_row >= FAILURES_IN_A_ROW:
                raise self.unusable(reason)
            return True
        self._alike[kind] += 1
        if self._alike[kind] >= self._most(kind):
            async with self._changed:
                self._error = self.unusable(reason)
                self._changed.notify_all()
            raise self._error
        await self._wait_for_others()
        return self.proven or kind not in SYSTEMATIC

    def unusable(self, reason: str) -> EndpointError:
        """Return the error that ends a stage."""
        count = self._in_a_row
        questions = quantity(count, "question") + (" in a row" if count > 1 else "")
        return EndpointError(
            f"{questions} had no usable answer; the last: {reason}",
            f"nothing is lost; when it is mended: segkit resume {self._run_id}",
        )

    def may_add(self, parts: int) -> bool:
        """Count the parts of a cut question; return False where the stage may not pay for so many more."""
        if self.extra + parts > self.most_extra:
            return False
        self.extra += parts
        return True

    def _most(self, kind: str) -> int:
        if kind in _UNREACHED:
            return FAILURES_IN_A_ROW
        return min(FIRST_FAILURES, self._concurrency) if kind in SYSTEMATIC else FIRST_FAILURES

    async def _wait_for_others(self) -> None:
        async with self._changed:
            self._suspended += 1
            self._changed.notify_all()
            try:
                await self._changed.wait_for(self._is_decided)
            finally:
                self._suspended -= 1
        if self._error:
            raise self._error

    def _is_decided(self) -> bool:
        return self.proven or self._error is not None or self._suspended >= self._active
