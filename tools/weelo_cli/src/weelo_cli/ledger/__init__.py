"""The ledger: proves from the tables, the topics and the metrics that no order was lost, doubled or given twice.

``weelo ledger verify`` (``make verify-ledger``) judges the system that the environment names; tests and the demo call
``verify``. It reads only, with a role of its own, and judges once traffic has stopped.
"""

from weelo_cli.ledger.report import LedgerReport
from weelo_cli.ledger.verify import LedgerConfig, LedgerError, verify

__all__ = ["LedgerConfig", "LedgerError", "LedgerReport", "verify"]
