"""The back door: verifies, builds, runs and installs a bundle, with numpy and pillow and nothing of the desk's.

    with deploytool.device.open("/opt/model") as model:
        logits = model("photograph.jpg")

`python -m deploytool.device --help` lists what it does on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.device.serve import Model
    from deploytool.device.serve import serve as open  # noqa: A004  # as one opens a file

__all__ = ["Model", "open"]


def __getattr__(name: str) -> object:
    """What a service uses, loaded when first asked for: whoever opens the back door can be told what is missing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deploytool.device import serve

    return {"Model": serve.Model, "open": serve.serve}[name]
