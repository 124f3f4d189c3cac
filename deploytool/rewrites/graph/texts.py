"""Finds texts in a graph that are not UTF-8: protobuf accepts them in a file, and then gives bytes for them."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

_MOST_SHOWN = 40  # bytes


def find_garbled(message: Message) -> str | None:
    """A text of a message, or of a message in it, that is not UTF-8, with its field; None if there is none."""
    pending = [message]
    while pending:
        for field, value in pending.pop().ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                pending += [value] if isinstance(value, Message) else value
            elif field.type == FieldDescriptor.TYPE_STRING:
                texts = [value] if isinstance(value, (str, bytes)) else value
                if (garbled := next((text for text in texts if isinstance(text, bytes)), None)) is not None:
                    return f"{field.name} {garbled[:_MOST_SHOWN]!r}"
    return None
