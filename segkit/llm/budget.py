"""A cap on calls and money: reserved at its largest before sending, settled when it is known."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal


class ExhaustedError(Exception):
    """The next call could exceed the cap; the message says what is spent, `option` which cap it is."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True, slots=True)
class Reservation:
    """The largest cost of one call that is under way."""

    cost: Decimal


class Budget:
    """Spend never exceeds the caps: a call that might is kept back until those in flight are settled, or for good."""

    def __init__(self, most_calls: int | None, most_cost: Decimal | None, calls: int, cost: Decimal) -> None:
        self.most_calls, self.most_cost = most_calls, most_cost
        self.calls, self.cost = calls, cost
        self._in_flight: list[Reservation] = []
        self._turn = asyncio.Condition()

    async def reserve(self, largest: Decimal) -> Reservation:
        """Reserve a call and its largest cost; raise ExhaustedError when it does not fit and nothing is in flight."""
        reservation = Reservation(largest)
        async with self._turn:
            await self._turn.wait_for(lambda: self._fits(largest) or not self._in_flight)
            if not self._fits(largest):
                raise self._exhausted(largest)
            self._in_flight.append(reservation)
        return reservation

    async def settle(self, reservation: Reservation, calls: int, cost: Decimal | None) -> None:
        """Replace a reservation by what the call took; an unknown cost counts as the largest."""
        async with self._turn:
            self._in_flight.remove(reservation)
            self.calls += calls
            self.cost += reservation.cost if cost is None else cost
            self._turn.notify_all()

    def _fits(self, largest: Decimal) -> bool:
        if self.most_calls is not None and self.calls + len(self._in_flight) >= self.most_calls:
            return False
        if self.most_cost is None:
            return True
        return self.cost + largest + sum((held.cost for held in self._in_flight), Decimal(0)) <= self.most_cost

    def _exhausted(self, largest: Decimal) -> ExhaustedError:
        if self.most_calls is not None and self.calls >= self.most_calls:
            return ExhaustedError(f"budget: {self.calls} of {self.most_calls} calls are made", "--max-calls")
        told = f"${self.cost:.4f} of ${self.most_cost} are spent, and the next call may cost ${largest:.4f}"
        return ExhaustedError(f"budget: {told}", "--max-cost-usd")
