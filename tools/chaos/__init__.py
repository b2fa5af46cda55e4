"""The fault rig: breaks servers, services and the connections between them under traffic, and then asks the ledger.

``make chaos SEED=1 MINUTES=10``. The same seed gives the same schedule of faults; what the machine makes of it in
between is its own affair. It harms only processes that it started itself.
"""
