"""Requests made up from a service's OpenAPI document, well and badly formed, and what it answers held against it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
ANSWERED_WITHIN_S = 20.0


class People(Protocol):
    """Callers of a service, and what they know, for requests that shall get further than a 404."""

    roles: tuple[str, ...]
    """Every role: some requests come from people whom the path is not for."""

    def caller(self, case: Any, role: str, data: st.DataObject) -> str:
        """The token of somebody in that role who sends this request; may put ids that exist into it."""

    def answered(self, case: Any, answer: httpx.Response) -> None:
        """Hear of an answer: what a request has used up may be there again for the next."""


def fuzz(document: dict[str, Any], base_url: str, people: People, examples: int) -> Counter[tuple[str, int]]:
    """Requests of every kind at every operation; what was answered how often.

    Raises:
        AssertionError: an answer that the document does not tell, or a bad request that was taken.
    """
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=base_url)
    # Unknown parameters are ignored, as the contract says; the token is added by whoever asks.
    schema.config.generation.update(allow_extra_parameters=False, with_security_parameters=False)
    # A text that is too long may make the whole body too large, and that is looked at first.
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "413"]
    seen: Counter[tuple[str, int]] = Counter()
    for result in schema.get_all_operations():
        operation: Any = result
        _ask_often(operation.ok(), people, seen, examples)
    return seen


def spoiled_in_path(case: Any) -> bool:
    """Whether the request is bad for what stands in its path."""
    return case.meta is None or any(
        place.value == "path" and info.mode.is_negative for place, info in case.meta.components.items()
    )


def _ask_often(operation: Any, people: People, seen: Counter[tuple[str, int]], examples: int) -> None:
    """Requests at one operation, mostly by those it is for."""
    roles = operation.definition.raw["x-roles"]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        role = data.draw(st.sampled_from([*roles * 4, *people.roles]))
        token = people.caller(case, role, data)
        answer = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=ANSWERED_WITHIN_S)
        seen[f"{case.method} {operation.path}", answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)
        people.answered(case, answer)

    ask()
