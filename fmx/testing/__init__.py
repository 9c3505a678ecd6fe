"""Tests to subclass: `AdapterTests`, the conformance suite of model adapters."""

from fmx.testing.adapter import AdapterTests
from fmx.testing.reference import ReferenceNetwork

__all__ = ["AdapterTests", "ReferenceNetwork"]
