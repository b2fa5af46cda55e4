"""Benchmarks: what the parts reach, each beside its limit or its peer in the same run. None is a test."""
