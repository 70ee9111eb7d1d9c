"""The traffic tools on a lab's machines, and what the tests of this directory ask of machines again and again."""

from __future__ import annotations

from xenflow_lab.stations import addresses, answers, begin, hosts, macs, matrix, run, start

__all__ = ["addresses", "answers", "begin", "hosts", "macs", "matrix", "run", "start"]
