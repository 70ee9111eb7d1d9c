"""Thin by intent: everything is in pyproject.toml."""

from setuptools import setup

setup()
