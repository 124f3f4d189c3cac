"""The back door: verifies, builds, runs and installs a bundle, with numpy and pillow and nothing of the desk's.

    with deploytool.device.open("/opt/model") as model:
        logits = model("photograph.jpg")

`python -m deploytool.device --help` lists what it does on the command line.
"""

from deploytool.device.serve import Model
from deploytool.device.serve import serve as open  # noqa: A004  # as one opens a file

__all__ = ["Model", "open"]
