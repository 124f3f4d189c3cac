"""Device-side commands and API. Depends on numpy and Pillow only.

    with deploytool.device.open("/opt/model") as model:
        logits = model("photograph.jpg")

`python -m deploytool.device --help` lists the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.device.serve import Model
    from deploytool.device.serve import serve as open  # noqa: A004  # named after the built-in, which it resembles

__all__ = ["Model", "open"]


def __getattr__(name: str) -> object:
    """Imports the API on first use, so that the command line can report a missing numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deploytool.device import serve

    return {"Model": serve.Model, "open": serve.serve}[name]
