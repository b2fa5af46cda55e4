"""People at a running dispatcher, for requests that are made up from its OpenAPI document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from hypothesis import strategies as st

from tests.integration.dispatcher_rig import Home
from tests.integration.openapi_fuzz import spoiled_in_path

ME = {
    "transporterId": "transporter-0",
    "name": "Test",
    "vehicleType": "TRUCK",
    "vehicleSubtype": "TATA_ACE",
    "vehicleNumber": "DL1AB1234",
}


@dataclass(frozen=True)
class Known:
    """Orders of ``customer-0``, and live offers of ``captain-0``."""

    orders: list[str]
    offers: list[str]


class People:
    """A few of each role. ``captain-0`` drives for ``transporter-0``."""

    roles: tuple[str, ...] = ("customer", "captain", "transporter", "ops")

    def __init__(self, home: Home, base_url: str, known: Known) -> None:
        self._home = home
        self._base_url = f"{base_url}/api/v1"
        self._known = known
        self.restore()

    def caller(self, case: Any, role: str, data: st.DataObject) -> str:
        """One of three in a role; in half of the paths ids that exist, then mostly by whose they are."""
        number = data.draw(st.integers(0, 2))
        if case.path_parameters and not spoiled_in_path(case) and data.draw(st.booleans()):
            known = {
                "order_id": self._known.orders,
                "offer_id": self._known.offers,
                "transporter_id": ["transporter-0"],
                "captain_id": ["captain-0"],
            }
            case.path_parameters = {
                name: data.draw(st.sampled_from(known[name])) for name in case.path_parameters
            }
            number = data.draw(st.sampled_from([0, 0, 0, number]))
        return self._home.token(role, f"{role}-{number}")

    def answered(self, case: Any, answer: httpx.Response) -> None:
        """A captain who named another transporter belongs to his own again."""
        if answer.status_code == 200 and (case.method.lower(), case.operation.path) == (
            "put",
            "/api/v1/captains/me",
        ):
            self.restore()

    def restore(self) -> None:
        """The first captain as he was."""
        headers = {"Authorization": f"Bearer {self._home.token('captain', 'captain-0')}"}
        answer = httpx.put(f"{self._base_url}/captains/me", json=ME, headers=headers)
        assert answer.status_code == 200, answer.text
