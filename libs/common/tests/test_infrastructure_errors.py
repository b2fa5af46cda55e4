"""What is wrong with the infrastructure is waited out; what is wrong with us is not."""

from __future__ import annotations

import asyncpg
import pytest

from weelo_common.postgres import DatabaseUnavailable, is_infrastructure_error


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailable("gone"),
        asyncpg.DeadlockDetectedError("two transactions wait for each other"),
        asyncpg.SerializationError("again, please"),
        asyncpg.LockNotAvailableError("lock_timeout"),
        asyncpg.QueryCanceledError("statement_timeout"),
        asyncpg.IdleInTransactionSessionTimeoutError("frozen for too long"),
        asyncpg.AdminShutdownError("the server stops"),
        asyncpg.CrashShutdownError("the server crashed"),
        asyncpg.CannotConnectNowError("the server starts"),
        asyncpg.TooManyConnectionsError("no room"),
        asyncpg.ConnectionDoesNotExistError("the connection was closed"),
        asyncpg.ReadOnlySQLTransactionError("a standby since the failover"),
        asyncpg.DiskFullError("no room"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        ConnectionResetError("gone"),
        OSError("no route"),
        TimeoutError("no answer"),
    ],
)
def test_trouble_that_may_pass_is_of_the_infrastructure(error: Exception) -> None:
    assert is_infrastructure_error(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("twice"),
        asyncpg.CheckViolationError("against a rule"),
        asyncpg.UndefinedTableError("no such table"),
        asyncpg.DataError("not a number"),
        asyncpg.InternalClientError("no decoder for composite type element"),
        KeyError("a defect"),
        ValueError("a defect"),
    ],
)
def test_a_defect_of_ours_is_not_of_the_infrastructure(error: Exception) -> None:
    assert not is_infrastructure_error(error)


def test_a_parameter_that_cannot_be_encoded_is_a_defect_of_ours() -> None:
    class CannotEncode(asyncpg.InterfaceError, ValueError):
        """As asyncpg raises it."""

    assert not is_infrastructure_error(CannotEncode("a text for a number"))
