"""A Docker engine of our own for the compose tests, from Debian's packages: start, use, stop. Needs root on Debian.

    python -m tests.compose.engine start            install what is missing, start dockerd, wait until it answers
    python -m tests.compose.engine run docker ps    a command with this engine's settings
    eval "$(python -m tests.compose.engine env)"    the same for a whole shell
    python -m tests.compose.engine stop             end dockerd and its containers; images and volumes stay
    python -m tests.compose.engine remove           stop, then delete images, volumes and the engine itself

It has a socket and a data folder of its own, so a Docker that the machine already has sees none of the images made
here under upstream's names. All of it is in `EMEND_ENGINE_DIR` (/var/lib/emend-engine).

Debian 12's own Docker is 20.10 with Compose 1.29, which knows neither profiles by dependency, nor `name:`, nor
`additional_contexts`. So engine, Compose (2.26) and Buildx (0.13) are unpacked from Debian 13's packages, whose
binaries run on Debian 12 too; runc alone needs a newer libc and is taken from the machine's own Debian.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ENGINE_DIR = Path(os.environ.get("EMEND_ENGINE_DIR", "/var/lib/emend-engine"))
SUITE = "trixie"
UNPACKED_PACKAGES = ("docker.io", "docker-cli", "docker-compose", "docker-buildx", "containerd", "tini")
INSTALLED_PACKAGES = {"runc": "runc", "iptables": "iptables", "mmdebstrap": "mmdebstrap", "ip": "iproute2"}
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0


_started: list[subprocess.Popen[bytes]] = []


class EngineError(Exception):
    """Base of what goes wrong with the engine or its images."""


class CommandFailed(EngineError):
    """A command exited with another code than 0; the message ends with what it printed."""


def run(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout_seconds: float = 600,
) -> str:
    """Standard output of a command, run with the engine's settings; raises CommandFailed with both outputs' end."""
    done = subprocess.run(
        [str(part) for part in command],
        env=engine_environment() | dict(environment or {}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        printed = (done.stdout + done.stderr).strip()[-4000:]
        raise CommandFailed(f"{shlex.join(map(str, command))} exited with code {done.returncode}:\n{printed}")
    return done.stdout


def engine_environment() -> dict[str, str]:
    """This process's environment, changed so that `docker` is ours and speaks to our engine."""
    binaries = [ENGINE_DIR / "unpacked" / "usr" / folder for folder in ("bin", "sbin")]
    return os.environ | {
        "DOCKER_HOST": f"unix://{_socket()}",
        "DOCKER_CONFIG": str(ENGINE_DIR / "config"),
        "DOCKER_BUILDKIT": "1",
        "PATH": os.pathsep.join([*map(str, binaries), os.environ["PATH"]]),
    }


def start() -> None:
    """Installs what is missing and starts dockerd; returns once it answers. Does nothing when ours already runs."""
    if answers():
        return
    if os.geteuid() != 0:
        raise EngineError("the engine needs root: it makes bridges and mounts")
    if other := _other_engines():
        raise EngineError(f"another dockerd runs here (process {other[0]}): two would fight over iptables")
    install()
    ENGINE_DIR.mkdir(parents=True, exist_ok=True)
    log = ENGINE_DIR / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _dockerd_command(),
            env=engine_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)  # else Python complains that it still runs
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise EngineError(
                f"dockerd did not come up; {log} ends:\n{log.read_text(errors='replace')[-3000:]}"
            )
        time.sleep(0.1)  # between two looks, not instead of one


def stop() -> None:
    """Ends our dockerd, which ends its containers first. Images, volumes and the build cache stay."""
    process_id = _process_id()
    if process_id is None:
        return
    os.kill(process_id, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while _is_dockerd(process_id):
        if time.monotonic() > deadline:
            os.killpg(process_id, signal.SIGKILL)
        time.sleep(0.1)
    subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)


def remove() -> None:
    """Stops the engine and deletes all it has: images, volumes, build cache and the unpacked packages."""
    stop()
    if ENGINE_DIR.exists():
        shutil.rmtree(ENGINE_DIR)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The engine for the length of a block; one that ran before goes on afterwards."""
    ran_before = answers()
    start()
    try:
        yield
    finally:
        if not ran_before:
            stop()


def answers() -> bool:
    """Whether our dockerd answers on its socket."""
    if not _socket().exists() or not shutil.which("docker", path=engine_environment()["PATH"]):
        return False
    asked = subprocess.run(["docker", "version"], env=engine_environment(), capture_output=True, check=False)
    return asked.returncode == 0


def install() -> None:
    """apt-gets runc, iptables, mmdebstrap and iproute2, and unpacks Debian 13's engine. Only what is missing."""
    missing = sorted(
        {package for program, package in INSTALLED_PACKAGES.items() if shutil.which(program) is None}
    )
    if missing:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", environment=quiet)
        run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing, environment=quiet)
    unpacked = ENGINE_DIR / "unpacked"
    if unpacked.exists():
        return
    unfinished = ENGINE_DIR / "unpacked.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for package in _download_packages():
        run("dpkg-deb", "-x", package, unfinished)
        package.unlink()
    plugins = ENGINE_DIR / "config" / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    for name in ("docker-compose", "docker-buildx"):
        (plugins / name).unlink(missing_ok=True)
        (plugins / name).symlink_to(unpacked / "usr/libexec/docker/cli-plugins" / name)
    unfinished.rename(unpacked)


def debian_mirror() -> str:
    """The address this machine's own apt takes Debian's packages from."""
    sites = run(
        "apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"
    ).split()
    if not sites:
        raise EngineError("apt knows no Debian archive here: run `apt-get update`, or use a Debian machine")
    return next((site for site in sites if not site.endswith("security")), sites[0])


def _download_packages() -> list[Path]:
    """The engine's packages, with an apt state of its own: the machine's own apt never hears of another suite."""
    state = ENGINE_DIR / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    (state / "sources.list").write_text(f"deb [signed-by={keyring}] {debian_mirror()} {SUITE} main\n")
    (state / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{state}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{state}/lists";\nDir::State::status "{state}/status";\nDir::Cache "{state}/cache";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    configuration = {"APT_CONFIG": str(state / "apt.conf")}
    run("apt-get", "update", "-qq", environment=configuration)
    packages = state / "packages"
    run("apt-get", "download", "-qq", *UNPACKED_PACKAGES, environment=configuration, folder=packages)
    shutil.rmtree(state / "lists")
    return sorted(packages.glob("*.deb"))


def _dockerd_command() -> list[str]:
    unpacked = ENGINE_DIR / "unpacked" / "usr"
    mtu_bytes = _smallest_mtu_bytes()
    return [
        # Others work on this machine meanwhile; containers inherit the niceness.
        *("nice", "-n", "10", str(unpacked / "sbin" / "dockerd")),
        *("--host", f"unix://{_socket()}"),
        *("--data-root", str(ENGINE_DIR / "docker")),
        *("--exec-root", str(ENGINE_DIR / "exec")),
        *("--pidfile", str(ENGINE_DIR / "dockerd.pid")),
        *("--init-path", str(unpacked / "bin" / "tini-static")),
        # A bridge has 1500 unless told: where the way out has less, large packets vanish and downloads hang.
        *("--mtu", str(mtu_bytes)),
        *("--default-network-opt", f"bridge=com.docker.network.driver.mtu={mtu_bytes}"),
        *("--log-opt", "max-size=10m"),
    ]


def _smallest_mtu_bytes() -> int:
    """The least MTU among this machine's real network interfaces, at most 1500."""
    interfaces = Path("/sys/class/net").iterdir()
    return min([1500, *(int((i / "mtu").read_text()) for i in interfaces if (i / "device").exists())])


def _socket() -> Path:
    return ENGINE_DIR / "docker.sock"


def _process_id() -> int | None:
    """Of our dockerd, or None. A pid file may outlive its process, and its number be another's by now."""
    try:
        process_id = int((ENGINE_DIR / "dockerd.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return process_id if _is_dockerd(process_id) else None


def _other_engines() -> list[int]:
    ids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process_id for process_id in ids if _is_dockerd(process_id) and process_id != _process_id()]


def _is_dockerd(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    name, _, rest = status.partition("(")[2].rpartition(")")
    return name == "dockerd" and rest.split()[0] != "Z"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A Docker engine for the compose tests")
    parser.add_argument("action", choices=("start", "stop", "remove", "env", "run"))
    parser.add_argument("command", nargs=argparse.REMAINDER, help="with run: what to run")
    chosen = parser.parse_args(arguments)
    if chosen.action == "run":
        return subprocess.run(chosen.command, env=engine_environment(), check=False).returncode
    if chosen.action == "env":
        ours = engine_environment()
        changed = sorted(name for name, value in ours.items() if os.environ.get(name) != value)
        print("\n".join(f"export {name}={shlex.quote(ours[name])}" for name in changed))
        return 0
    try:
        {"start": start, "stop": stop, "remove": remove}[chosen.action]()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
