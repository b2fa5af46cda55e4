"""What was counted during the evening: by the phones, and by the feed of events. Pure: no I/O, no clock.

Counts that the phones cannot know (offers withdrawn, searches that ended) come from the public events, so that
they are the system's own word and not a guess. It must never hold a name, an address or a token.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

MAX_HAPPENINGS = 14  # lines of the live table
MAX_SURPRISES = 50  # beyond these only their number is kept
MAX_SAMPLES = 100_000  # of one latency; an evening has some thousands


@dataclass(slots=True)
class Latency:
    """Seconds, one sample each; the first `MAX_SAMPLES` are kept."""

    samples: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        if len(self.samples) < MAX_SAMPLES:
            self.samples.append(seconds)

    def percentile_ms(self, percent: float) -> float | None:
        """The nearest-rank percentile in ms with one decimal; None without samples."""
        if not self.samples:
            return None
        ordered = sorted(self.samples)
        rank = max(1, -(-len(ordered) * percent // 100))  # rounded up
        return round(ordered[int(rank) - 1] * 1000, 1)


@dataclass(slots=True)
class Orders:
    """How orders and tries ended. `fully_filled` to `expired` count how the searches ended, by the events."""

    created: int = 0
    replayed: int = 0
    concurrent_rejected: int = 0
    active_rejected: int = 0
    fully_filled: int = 0
    partially_filled: int = 0
    cancelled: int = 0
    expired: int = 0


@dataclass(slots=True)
class Offers:
    """Offers by what became of them; `lost_races` counts accepts that somebody else's accept beat."""

    made: int = 0
    accepted: int = 0
    declined: int = 0
    withdrawn: int = 0
    lost_races: int = 0


@dataclass(slots=True)
class WaveCount:
    """One of the six waves, over all orders: how far it reached, how many orders came to it, how many were asked."""

    radius_m: int = 0
    orders: int = 0
    offers: int = 0


@dataclass(slots=True)
class Dispatch:
    """How captains were found. ``replacements`` are offers made at once, between waves; ``withdrawn`` by reason.

    ``found_near``: orders whose first wave made an offer.
    """

    waves: dict[int, WaveCount] = field(default_factory=dict)
    replacements: int = 0
    exhausted: int = 0
    withdrawn: Counter[str] = field(default_factory=Counter)
    found_near: set[str] = field(default_factory=set)

    def wave(self, order_id: str, number: int, radius_m: int, offers: int) -> None:
        """A wave of one order."""
        if number == 1 and offers:
            self.found_near.add(order_id)
        count = self.waves.setdefault(number, WaveCount(radius_m))
        count.orders += 1
        count.offers += offers

    @property
    def offers_of_later_waves(self) -> int:
        """Offers to captains who stood too far away for the first wave, or came later."""
        return sum(count.offers for number, count in self.waves.items() if number > 1)


class Tally:
    """All counts of one evening. For one event loop: nothing here is thread-safe."""

    def __init__(self, on_happening: Callable[[str], None] | None = None) -> None:
        self.orders = Orders()
        self.offers = Offers()
        self.dispatch = Dispatch()
        self.pushed = 0
        self.positions = 0
        self.completed_trips = 0
        self.busy_captains = 0
        self.open_searches = 0
        self.events_read = 0
        self.create = Latency()
        self.accept = Latency()
        self.answered: set[str] = set()
        self.happenings: deque[str] = deque(maxlen=MAX_HAPPENINGS)
        self.surprises: deque[str] = deque(maxlen=MAX_SURPRISES)
        self.surprise_count = 0
        self._sent: dict[str, float] = {}
        self._first_offer: dict[str, float] = {}
        self._on_happening = on_happening

    def say(self, text: str) -> None:
        """Something a watcher should see; ids and kinds only."""
        self.happenings.append(text)
        if self._on_happening is not None:
            self._on_happening(text)

    def surprise(self, text: str) -> None:
        """Something the contract does not have. It is shown at the end; the ledger judges."""
        self.surprise_count += 1
        self.surprises.append(text)

    def created(self, order_id: str, sent_at: float, seconds: float) -> None:
        """The 201 that made an order; a second one for it is a surprise. Seconds, of one monotonic clock."""
        if order_id in self._sent:
            self.surprise(f"order {order_id} was answered as new twice")
            return
        self._know(order_id)
        self.create.add(seconds)
        self._sent[order_id] = sent_at

    def replayed(self, order_id: str) -> None:
        """A 201 from the records. The order may be new to us: its first reply was lost, or is still on its way."""
        self.orders.replayed += 1
        self._know(order_id)

    def _know(self, order_id: str) -> None:
        if order_id not in self.answered:
            self.answered.add(order_id)
            self.orders.created += 1

    def offer_on_a_phone(self, order_id: str, at: float) -> None:
        """A captain's socket got an offer of this order; the first counts."""
        self._first_offer.setdefault(order_id, at)

    def create_to_offer(self) -> Latency:
        """From sending the order to the first offer on a phone, for each order that had one, by whatever wave."""
        return self._create_to_offer(self._sent)

    def create_to_near_offer(self) -> Latency:
        """The same, of the orders whose first wave found somebody: no wait for a later one is in it."""
        return self._create_to_offer(self._sent.keys() & self.dispatch.found_near)

    def _create_to_offer(self, order_ids: Iterable[str]) -> Latency:
        return Latency(
            [
                max(0.0, self._first_offer[order_id] - self._sent[order_id])
                for order_id in order_ids
                if order_id in self._first_offer
            ]
        )
