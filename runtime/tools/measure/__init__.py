"""Latency and throughput of several engines side by side, in MLPerf's words.

`rounds` measures, `statistics` says how sure the numbers are, `machine` and `interference` what
they were measured on and what disturbed them.
"""
