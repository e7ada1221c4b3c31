"""What nginx costs on the way of a prediction: the same requests to the gateway itself and through nginx.

    python -m bench.nginx [--seconds 1] [--rounds 41]
    TEST_NGINX=/usr/local/sbin/nginx python -m bench.nginx      # another than Debian's

The real nginx with the templates of deploy/nginx (its log on, its limits raised), one gateway, one model server with a
small model, PostgreSQL; `wrk` asks for drafts over 8 connections. Each round asks both, in turns first and second; the
ratio is taken within a round, and the median of the rounds is what counts. The processor time of nginx and the services
is counted too: it depends less on what else the machine does. Many short rounds, so that a round's two halves meet much
the same machine. Prints a line a round, and one JSON object last.

Everything on the same 2 cores (x86-64, Python 3.11.7, uvicorn 0.54), which do nothing else; 31 rounds of 1 s each;
ratios are nginx by gateway. In brackets an earlier day:

                                              throughput    processor time    of nginx alone
    nginx 1.30.6, connections kept           0.97 (0.95)       1.07 (1.08)    0.13 ms (0.09)
    one worker instead of one a core               0.915             1.090   0.115 ms

On overloaded cores (load 20), 41 rounds:

    nginx 1.30.6, connections kept                  0.89              1.09           0.11 ms
    nginx 1.22.1, a connection a request            0.77              1.36           0.18 ms

Most of nginx's time is the kernel's: two reads, two writes and a wait for each request. Single runs differ by a point.
"""

from __future__ import annotations

import argparse
import base64
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.nginx import BINARY, NameServer, Nginx, names_form
from tests.support.pages_stand import Service, Stand

CONNECTIONS = 8
PATHS = {"gateway": "/invocations/", "nginx": "/api/invocations/"}


@dataclass(frozen=True)
class Measured:
    """cpu_ms: processor time of nginx and of the services, for one request."""

    requests_per_second: float
    nginx_cpu_ms: float
    services_cpu_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=41)
    given = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None or BINARY is None:
        sys.exit("wrk and nginx are needed: apt-get install wrk nginx")
    with tempfile.TemporaryDirectory(prefix="emend-bench-") as folder:
        rounds = measure_all(Path(folder), wrk, given.seconds, given.rounds)
    print(json.dumps(summary(rounds)))


def measure_all(folder: Path, wrk: str, seconds: int, rounds: int) -> list[dict[str, Measured]]:
    script = folder / "draft.lua"
    body = json.dumps({"draft": True, "image": base64.b64encode(bytes(784)).decode()})
    script.write_text(
        f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{body}'\n"
    )
    measured = []
    stand = Stand(folder)
    try:
        stand.add_models()  # starts the model server and the gateway; nothing else is asked
        limits = {"EMEND_PREDICTIONS_PER_SECOND": "1000000", "EMEND_PREDICTIONS_BURST": "1000000"}
        limits["EMEND_GATEWAYS"] = f"gateway.test:{stand.gateway.url.rpartition(':')[2]}"
        with NameServer() as names, Nginx(folder / "nginx", names, limits) as nginx:
            urls = {"gateway": stand.gateway.url, "nginx": nginx.url}
            processes = {"nginx": family(nginx.pid), "services": services(stand.model_server, stand.gateway)}
            for way, url in urls.items():
                ask(wrk, script, url + PATHS[way], 2)  # warm
            for number in range(rounds):
                order = sorted(urls, reverse=number % 2 == 1)
                measured.append(
                    {way: measure(wrk, script, urls[way] + PATHS[way], seconds, processes) for way in order}
                )
                print(line(number, measured[-1]), flush=True)
    finally:
        stand.__exit__()
    return measured


def services(*started: Service) -> list[psutil.Process]:
    ports = [int(service.url.rpartition(":")[2]) for service in started]
    listening = [each for each in psutil.net_connections("tcp4") if each.status == psutil.CONN_LISTEN]
    pids = {each.pid for each in listening if each.laddr and each.laddr.port in ports}
    return [process for pid in pids if pid is not None for process in family(pid)]


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def measure(
    wrk: str, script: Path, url: str, seconds: int, processes: dict[str, list[psutil.Process]]
) -> Measured:
    before = {name: cpu_seconds(each) for name, each in processes.items()}
    asked, rate = ask(wrk, script, url, seconds)
    spent = {name: cpu_seconds(each) - before[name] for name, each in processes.items()}
    return Measured(rate, spent["nginx"] / asked * 1000, spent["services"] / asked * 1000)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def ask(wrk: str, script: Path, url: str, seconds: int) -> tuple[int, float]:
    """Requests answered, and how many a second. Every one must have been answered 200."""
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
    said = subprocess.run(
        [*command, "-H", "Host: 127.0.0.1", url], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"not every request was answered:\n{said}")
    asked, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert asked is not None
    assert rate is not None
    return int(asked[1]), float(rate[1])


def line(number: int, found: dict[str, Measured]) -> str:
    shown = "   ".join(
        f"{way} {each.requests_per_second:6.0f}/s, {each.services_cpu_ms + each.nginx_cpu_ms:.3f} ms of CPU"
        for way, each in sorted(found.items())
    )
    return f"{number + 1}: {shown}"


def summary(rounds: list[dict[str, Measured]]) -> dict[str, object]:
    """Ratios: through nginx by without it; 1 is no difference."""
    throughput = [each["nginx"].requests_per_second / each["gateway"].requests_per_second for each in rounds]
    cpu = [
        (each["nginx"].nginx_cpu_ms + each["nginx"].services_cpu_ms) / each["gateway"].services_cpu_ms
        for each in rounds
    ]
    return {
        "bench": "nginx",
        "nginx": subprocess.run(
            [str(BINARY), "-v"], capture_output=True, text=True, check=True
        ).stderr.strip(),
        "names": names_form(),
        "connections": CONNECTIONS,
        "rounds": len(rounds),
        "gateway_per_second": round(statistics.median(r["gateway"].requests_per_second for r in rounds)),
        "nginx_per_second": round(statistics.median(r["nginx"].requests_per_second for r in rounds)),
        "throughput_ratio": round(statistics.median(throughput), 3),
        "cpu_ratio": round(statistics.median(cpu), 3),
        "nginx_cpu_ms": round(statistics.median(r["nginx"].nginx_cpu_ms for r in rounds), 3),
        "load_average": psutil.getloadavg()[0],
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
