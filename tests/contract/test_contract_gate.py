"""Within v1 only additions pass. Each kind of break is made on purpose, in a copy, and `make lint`'s own check says
which it is and why."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from deploy.local.settings import PROJECT
from tests.contract.workbench import EVENTS, Workbench

ORDERS, FIELDS, TOPICS = f"{EVENTS}/orders.py", f"{EVENTS}/fields.py", f"{EVENTS}/topics.py"


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench.in_folder(tmp_path)


BREAKS = {
    "a_removed_field": (
        ORDERS,
        "    vehicle_number: fields.VehicleNumber\n",
        "",
        "weelo.order.truck_assigned.v1#vehicleNumber: the field was removed: readers of the first version refuse",
    ),
    "a_renamed_field": (
        ORDERS,
        "    truck_request_status: fields",
        "    truck_state: fields",
        "weelo.order.truck_released.v1#truckRequestStatus: the field was removed (renamed to truckState?)",
    ),
    "a_removed_optional_field": (
        ORDERS,
        "    city: str | None = None\n",
        "",
        "weelo.order.created.v1#pickup.city: the field was removed",
    ),
    "a_new_required_field": (
        ORDERS,
        "    reason: fields.CancelReason\n",
        "    reason: fields.CancelReason\n    refund: int\n",
        "weelo.order.cancelled.v1#refund: a new field is required: today's readers refuse events of the first version",
    ),
    "an_optional_field_that_becomes_required": (
        ORDERS,
        "customer's words.\")] = None\n",
        "customer's words.\")]\n",
        "weelo.order.created.v1#goodsType: the field became required: today's readers refuse events of the first",
    ),
    "a_required_field_that_becomes_optional": (
        ORDERS,
        "    expires_at: fields.OrderExpiresAt\n",
        "    expires_at: fields.OrderExpiresAt | None = None\n",
        "weelo.order.created.v1#expiresAt: the field became optional: readers of the first version refuse",
    ),
    "a_narrowed_type": (
        FIELDS,
        "DistanceKm = Annotated[int | float,",
        "DistanceKm = Annotated[int,",
        'weelo.order.created.v1#distanceKm: type narrowed from "number" to "integer": today\'s readers refuse',
    ),
    "a_widened_type": (
        ORDERS,
        "    trucks_filled: Annotated[int,",
        "    trucks_filled: Annotated[float,",
        'weelo.order.created.v1#trucksFilled: type widened from "integer" to "number": readers of the first version',
    ),
    "another_type": (
        FIELDS,
        "OrderVersion = Annotated[\n    int,",
        "OrderVersion = Annotated[\n    str,",
        'weelo.order.created.v1#orderVersion: type changed from "integer" to "string"',
    ),
    "a_narrowed_bound": (
        FIELDS,
        "Field(ge=0)",
        "Field(ge=1)",
        "weelo.order.created.v1#truckRequests[].pricePerTruck: minimum narrowed from 0 to 1",
    ),
    "a_widened_bound": (
        FIELDS,
        "Field(ge=0)",
        "Field(ge=-1)",
        "weelo.order.created.v1#totalAmount: minimum widened from 0 to -1: readers of the first version refuse",
    ),
    "text_that_becomes_an_enumeration": (
        ORDERS,
        "    reason: fields.CancelReason\n",
        '    reason: __import__("typing").Literal["customer", "no_truck_left"]\n',
        'weelo.order.cancelled.v1#reason: enum narrowed from none to ["customer", "no_truck_left"]',
    ),
    "text_that_gets_a_pattern": (
        FIELDS,
        'OrderId = Annotated[str, Field(description="The order. A UUIDv7.")]',
        'OrderId = Annotated[str, Field(pattern="^[0-9a-f-]{36}$")]',
        'weelo.order.created.v1#orderId: pattern narrowed from none to "^[0-9a-f-]{36}$"',
    ),
    "a_changed_key": (
        ORDERS,
        "        return self.order_id\n",
        "        return self.customer_id\n",
        "weelo.order.created.v1: key changed from orderId to customerId: events that belong together would come in",
    ),
    "a_key_that_loses_its_fallback": (
        f"{EVENTS}/timers.py",
        "        return self.order_id or self.timer_key\n",
        "        return self.timer_key\n",
        "weelo.timer.fired.v1: key changed from orderId, else timerKey to timerKey",
    ),
    "an_event_that_moves_to_another_topic": (
        f"{EVENTS}/timers.py",
        "    TOPIC: ClassVar[Topic] = TIMERS_FIRED\n",
        "    TOPIC: ClassVar[Topic] = TIMERS_COMMANDS\n",
        "weelo.timer.fired.v1: topic changed from timers.fired.v1 to timers.commands.v1",
    ),
    "a_renamed_topic": (
        TOPICS,
        '    "captains.state.v1",',
        '    "captain.state.v1",',
        "captains.state.v1: the topic was removed or renamed: its readers would wait for ever",
    ),
    "a_changed_partition_count": (
        TOPICS,
        "ORDER_PARTITIONS = 12",
        "ORDER_PARTITIONS = 24",
        "orders.events.v1: partitions changed from 12 to 24: a key's new events would go to another partition",
    ),
    "a_shortened_retention": (
        TOPICS,
        "    7 * _DAY_MS,",
        "    2 * _DAY_MS,",
        "orders.events.v1: retention shortened from 7 d to 2 d",
    ),
    "a_removed_event": (
        f"{EVENTS}/__init__.py",
        "register(\n    OrderCreated,\n",
        "register(\n",
        "weelo.order.created.v1: the event was removed or renamed",
    ),
    "a_renamed_event": (
        ORDERS,
        '"weelo.order.completed.v1"',
        '"weelo.order.done.v1"',
        "weelo.order.completed.v1: the event was removed or renamed",
    ),
    "a_removed_header": (
        "tools/contracts/headers.py",
        '        "traceparent": {',
        '        "tracestate": {',
        "headers of the event#traceparent: the field was removed (renamed to tracestate?)",
    ),
    "another_packed_layout": (
        f"{EVENTS}/positions.py",
        'PackedField("latitude", "i", "int32"',
        'PackedField("latitude", "q", "int64"',
        "captains.locations.v1: the packed layout changed under format version 1: readers would take one field for",
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_break_of_v1_fails_the_check_with_a_line_that_says_which_and_why(
    bench: Workbench, kind: str
) -> None:
    path, old, new, line = BREAKS[kind]
    bench.edit(path, old, new)
    code, said = bench.run("check")
    assert code == 1
    assert f"broken contract: {line}" in said
    assert said.rstrip().endswith(
        "Within v1 only additions pass: bring the old back, or make a v2 of it beside v1."
    )
    assert "Traceback" not in said


def test_a_break_is_never_written_over_what_is_published(bench: Workbench) -> None:
    bench.edit(ORDERS, "    vehicle_number: fields.VehicleNumber\n", "")
    before = {path: path.read_bytes() for path in bench.folder.glob("schemas/**/*.json")}
    code, said = bench.run("write")
    assert code == 1
    assert "vehicleNumber: the field was removed" in said
    assert {path: path.read_bytes() for path in bench.folder.glob("schemas/**/*.json")} == before


def test_a_new_optional_field_passes_once_it_is_written_and_is_then_a_promise_too(bench: Workbench) -> None:
    addition = "    reason: fields.CancelReason\n    note: str | None = None\n"
    bench.edit(ORDERS, "    reason: fields.CancelReason\n", addition)
    code, said = bench.run("check")
    assert code == 1
    assert "broken contract" not in said
    assert "schemas/events/weelo.order.cancelled.v1.json: not what the event classes say" in said
    assert "Run `make contracts`" in said
    assert bench.run("write")[0] == 0
    assert bench.run("check")[0] == 0
    bench.edit(ORDERS, addition, "    reason: fields.CancelReason\n")
    code, said = bench.run("check")
    assert code == 1
    assert "weelo.order.cancelled.v1#note: the field was removed" in said


def test_a_longer_retention_passes(bench: Workbench) -> None:
    bench.edit(TOPICS, "    7 * _DAY_MS,", "    9 * _DAY_MS,")
    assert bench.run("write")[0] == 0
    baseline = json.loads((bench.folder / "schemas/baseline.json").read_text())
    assert baseline["topics"]["orders.events.v1"]["retentionMs"] == 9 * 86_400_000


def test_a_higher_format_version_may_have_another_layout(bench: Workbench) -> None:
    positions = f"{EVENTS}/positions.py"
    bench.edit(positions, 'PackedField("latitude", "i", "int32"', 'PackedField("latitude", "q", "int64"')
    bench.edit(positions, "FORMAT_VERSION = 1\n", "FORMAT_VERSION = 2\n")
    code, said = bench.run("check")
    assert "broken contract" not in said
    assert (code, "Run `make contracts`" in said) == (1, True)


def test_the_first_version_of_an_event_is_never_written_again(bench: Workbench) -> None:
    golden = bench.folder / "tests/contract/golden/weelo.order.cancelled.v1.json"
    before = golden.read_text()
    bench.edit(
        ORDERS,
        "    reason: fields.CancelReason\n",
        "    reason: fields.CancelReason\n    note: str | None = None\n",
    )
    assert bench.run("write")[0] == 0
    assert golden.read_text() == before


def test_an_event_without_a_sample_is_named(bench: Workbench) -> None:
    bench.edit(
        ORDERS,
        "class OrderCompleted(OrderEvent):",
        'class OrderLost(OrderEvent):\n    TYPE: ClassVar[str] = "weelo.order.lost.v1"\n\n\n'
        "class OrderCompleted(OrderEvent):",
    )
    bench.edit(
        f"{EVENTS}/__init__.py",
        "register(\n",
        "from weelo_common.events.orders import OrderLost\n\nregister(\n    OrderLost,\n",
    )
    code, said = bench.run("check")
    assert (code, said.strip()) == (1, "tools/contracts/samples.py has no sample of weelo.order.lost.v1")


def test_a_missing_baseline_is_named_and_not_made_up(bench: Workbench) -> None:
    (bench.folder / "schemas/baseline.json").unlink()
    for command in ("check", "write"):
        code, said = bench.run(command)
        assert code == 1
        assert "schemas/baseline.json holds what v1 has promised so far and cannot be read" in said


def test_a_schema_that_belongs_to_no_event_is_found_and_removed(bench: Workbench) -> None:
    stray = bench.folder / "schemas/events/weelo.order.dreamt.v1.json"
    stray.write_text("{}")
    code, said = bench.run("check")
    assert code == 1
    assert "schemas/events/weelo.order.dreamt.v1.json: belongs to no event" in said
    assert bench.run("write")[0] == 0
    assert not stray.exists()


def test_what_is_published_is_what_the_event_classes_say(bench: Workbench) -> None:
    assert bench.run("check") == (0, "The event contract is as published; v1 has only grown.\n")


def test_lint_runs_the_check() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "lint"], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "-m tools.contracts check" in planned
