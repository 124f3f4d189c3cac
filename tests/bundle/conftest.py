"""The key pairs and the signed bundle of the device tests."""

from tests.device.conftest import copy, ours, signed, theirs

__all__ = ["copy", "ours", "signed", "theirs"]
