"""Figures of XenFlow on this machine, each with its peers and floors in the same run (docs/bench.md)."""
