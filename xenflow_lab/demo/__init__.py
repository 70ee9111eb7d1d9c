"""The main job of XenFlow shown on one machine: ``python -m xenflow_lab.demo``, or ``make demo``."""
