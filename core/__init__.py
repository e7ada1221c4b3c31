"""What every process shares."""

import os
from importlib.metadata import PackageNotFoundError, version

# ONNX Runtime reports usage to its maker unless told not to; it reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    __version__ = version("emend")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
