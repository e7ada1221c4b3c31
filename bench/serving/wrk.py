"""`wrk`, the client: what it asks, and what it said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Measured:
    """per_second: requests answered 2xx. Latencies are of all answers."""

    per_second: float
    p50_ms: float
    p99_ms: float
    refused_per_second: float = 0.0


def find_wrk() -> str:
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("wrk is needed: apt-get install wrk")
    return wrk


def write_script(path: Path, bodies: list[dict[str, object]], pause_ms: float = 0.0) -> Path:
    """What is asked, in turns. pause_ms: between an answer and the same connection's next request."""
    written = ", ".join(_quoted(json.dumps(body)) for body in bodies)
    pause = f"function delay() return {pause_ms:g} end" if pause_ms else ""
    path.write_text(
        f"""
local requests, place = {{}}, 0
function init()
  wrk.headers["Content-Type"] = "application/json"
  for number, body in ipairs({{ {written} }}) do
    requests[number] = wrk.format("POST", nil, nil, body)
  end
end
function request()
  place = place % #requests + 1
  return requests[place]
end
{pause}
"""
    )
    return path


def ask(
    wrk: str, script: Path, url: str, connections: int, seconds: float, *, may_refuse: bool = False
) -> Measured:
    """Exits when a request failed, or was refused where it may not be."""
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "10s"]
    said = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    ).stdout
    counted = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    assert counted is not None
    lasted = float(counted[2]) * _UNITS[counted[3]] / 1000
    others = int(refused[1]) if refused else 0
    answered = int(counted[1]) - others
    if "Socket errors" in said or answered == 0 or (others and not may_refuse):
        sys.exit(f"{url}: not every request was answered:\n{said}")
    return Measured(answered / lasted, _latency(said, "50%"), _latency(said, "99%"), others / lasted)


def _latency(said: str, share: str) -> float:
    found = re.search(rf"^\s+{share}\s+([\d.]+)(us|ms|s|m)\s*$", said, re.MULTILINE)
    assert found is not None, said
    return float(found[1]) * _UNITS[found[2]]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
