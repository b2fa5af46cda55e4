"""The whole stack on this machine without Docker: three servers and four services as child processes.

For development, the demo, the tests and the benchmarks. It must never be what production runs: each start
begins with empty databases and topics, and everything listens on 127.0.0.1 alone.
"""
