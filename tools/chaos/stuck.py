"""What a run left behind that no fault excuses: events that were parked, or buried as dead letters.

Trouble of the infrastructure is waited out, so after any number of faults there is neither. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping

from weelo_cli.connections import SERVICES, Surroundings
from weelo_cli.dead_letters import dead_letter_topics, read_dead_letters
from weelo_cli.parked import parked_keys
from weelo_cli.reading import open_reader


async def stuck(env: Mapping[str, str]) -> list[str]:
    """One line for each parked key and each dead letter of the system that the environment names.

    Raises:
        KafkaUnavailable, asyncpg.PostgresError, OSError: it cannot be read.
    """
    surroundings = Surroundings(env)
    found: list[str] = []
    for service in SERVICES:
        async with surroundings.reading(service) as connection:
            for one in await parked_keys(connection, None):
                found.append(f"{service} parked {one['events']} events of {one['key']}: {one['reason']}")
    async with open_reader(surroundings.kafka()) as reader:
        for topic, group in dead_letter_topics(None, None):
            for letter in await read_dead_letters(reader, topic, group):
                told = letter.document()
                found.append(f"{group} buried {told['type']} of {told['key']}: {told['reason']}")
    return found
