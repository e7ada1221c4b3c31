"""A model's home: a git and DVC repository of its own.

Two commits a run: `record_dataset` after `merge` (tag dataset-<n>) and `record_run` after `evaluate` (tag
run-<id>). Both can be repeated after being killed anywhere. DVC is used through its API, in the stage's own
process: its command line costs a second more each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import yaml

from core import __version__, objects
from core.errors import DiskFull, EmendError
from core.objects import StoreUnavailable
from core.patience import patiently
from core.settings import settings
from core.storage import write_durably, write_json
from pipeline import mirror
from pipeline.dataset import shard_version, shards
from pipeline.git import HomeLocked, WorkspaceError, git

PROJECT = Path(__file__).parents[1]
STARTS_FROM = "starts_from"  # of product.json; all else there are packages and their versions
WEIGHTS = ("model.onnx", "weights.safetensors")  # in model/ and base/; what else is there is small
CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5, 20  # of DVC's S3 client
PRESETS = {"doodles": PROJECT / "params.yaml", "photos": PROJECT / "pipeline" / "presets" / "photos.yaml"}

_IGNORED = "/dataset\n/base\n/model\n/inbox\n/imports\n/originals\n/quarantine\n/runs\n"
_TRACKED = ("params.yaml", "product.json", "dvc.yaml", "dvc.lock", "dataset.dvc", "base.dvc", "reports")


class HomeChanged(WorkspaceError):
    pass


def warm_up() -> None:
    """Imports what recording needs and DVC leaves until then: 1 s that a warm stage spends before its turn."""
    import dvc.repo.add
    import dvc.repo.commit
    import dvc.repo.graph
    import dvc.stage.cache
    import dvc.utils.strictyaml
    import networkx
    import ruamel.yaml

    del dvc, networkx, ruamel


def create_home(home: Path, params_yaml: str) -> None:
    """Makes a home whole or not at all; does nothing when it is there."""
    if (home / ".git").is_dir():
        return
    building = home.parent / f".{home.name}.new"
    shutil.rmtree(building, ignore_errors=True)
    (building / "dataset").mkdir(parents=True)
    (building / "reports").mkdir()
    git(building, "init", "--quiet", "--initial-branch=main")
    git(building, "config", "user.name", "Emend")
    git(building, "config", "user.email", "emend@localhost")
    git(building, "config", "commit.gpgsign", "false")
    with _dvc_quiet():
        from dvc.repo import Repo

        Repo.init(str(building)).close()
    (building / ".dvc" / "config").write_text(
        '[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = "reflink,hardlink,copy"\n'
    )
    (building / ".gitignore").write_text(_IGNORED)
    (building / "params.yaml").write_text(params_yaml)
    shutil.copyfile(PROJECT / "dvc.yaml", building / "dvc.yaml")
    write_json(building / "base" / "version.json", {"version": None})
    write_product(building)
    if home.exists():  # an earlier inbox, say
        for entry in home.iterdir():
            if not (building / entry.name).exists():
                entry.rename(building / entry.name)
        shutil.rmtree(home)
    building.rename(home)
    git(home, "add", ".dvc", ".dvcignore", ".gitignore", "params.yaml", "dvc.yaml", "product.json")
    git(home, "commit", "--quiet", "--message", f"A new home for {home.name}")


def write_product(home: Path, weights: object = None) -> None:
    """What made the figures besides data and parameters: a dependency of training, so recorded with each run.

    weights: `train.options.weights`; the file that it names, if it does, is a dependency too.
    """
    made_by = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "pillow")
    versions = {name: package_version(name) for name in made_by}
    product = {"emend": __version__, STARTS_FROM: _dependency(home, weights), **versions}
    write_json(home / "product.json", product)


def _dependency(home: Path, weights: object) -> str:
    """The file of weights as dvc.yaml is to name it; one of base/ where there is none that DVC could depend on."""
    if isinstance(weights, str) and (home / weights).is_file():
        path = (home / weights).resolve()
        made_here = (home / name for name in ("model", "reports", "product.json"))
        if not any(path.is_relative_to(made.resolve()) for made in made_here):
            return weights
    return "base/version.json"


def latest_dataset_version(home: Path) -> int:
    """0 for a new home."""
    tags = git(home, "tag", "--list", "dataset-*").split()
    return max((int(t.removeprefix("dataset-")) for t in tags), default=0)


def run_of_dataset(home: Path, dataset_version: int) -> int | None:
    """Which run made a dataset version, as its commit says."""
    if dataset_version == 0:
        return None
    said = re.search(
        r"\(run (\d+)\)$", git(home, "log", "-1", "--format=%s", f"dataset-{dataset_version}").strip()
    )
    return int(said[1]) if said else None


def check_usable(home: Path) -> None:
    """Raises HomeLocked or HomeChanged."""
    lock = home / ".git" / "index.lock"
    if lock.exists():
        raise HomeLocked(
            f"the home {home} is locked: another git process works there, or was killed. Wait for it; "
            f"if none runs, remove {lock}, then `emend resume` this run"
        )
    changed = [
        line[3:]
        for line in git(home, "status", "--porcelain", "--untracked-files=no").splitlines()
        if line[3:].split("/")[0] not in _TRACKED or line[3:] == "dvc.yaml"
    ]
    if changed:
        raise HomeChanged(
            f"{', '.join(changed[:5])} changed in the home {home}; only params.yaml may be edited there. "
            f"Commit or undo it (git -C {home} checkout -- {changed[0]}), then `emend resume` this run"
        )


def remove_leftover_locks(home: Path, since: float) -> None:
    """Git's lock files of a stage that began then (seconds since 1970) and was killed; older ones are not ours."""
    for lock in [*(home / ".git").glob("*.lock"), *(home / ".git" / "refs").rglob("*.lock")]:
        with contextlib.suppress(FileNotFoundError):
            if lock.stat().st_mtime >= since:
                lock.unlink()


def remove_leftover_shards(home: Path, dataset_version: int) -> list[str]:
    """Shards of a run that was killed before its dataset version was tagged."""
    leftovers = [path for path in shards(home) if shard_version(path) > dataset_version]
    leftovers += (home / "dataset").glob(".*.tmp")  # DVC would add them
    for path in leftovers:
        path.unlink()
    return [path.name for path in leftovers]


def record_dataset(home: Path, dataset_version: int, message: str, *, new: bool = True) -> str:
    """`dvc add` and push, commit, and when the version is new tag `dataset-<n>`. Returns the commit."""
    with _dvc_quiet(), contextlib.chdir(home):  # DVC resolves stage names against the working directory
        from dvc.repo import Repo

        repo = Repo(str(home))
        try:
            repo.add([str(home / "dataset"), str(home / "base")])
            _push(repo, home)
        finally:
            repo.close()
    commit = _commit(home, message)
    if new:
        _tag(home, f"dataset-{dataset_version}", commit)
    _send_history(home)
    return commit


def record_run(home: Path, run: int, message: str) -> str:
    """Writes dvc.lock from what `train` and `evaluate` did, commits it with the reports, tags `run-<id>`."""
    with _dvc_quiet(), contextlib.chdir(home):  # DVC resolves stage names against the working directory
        from dvc.repo import Repo

        repo = Repo(str(home))
        try:
            for stage in ("train", "evaluate"):
                repo.commit(stage, force=True)
            _push(repo, home)
        finally:
            repo.close()
    commit = _commit(home, message)
    _tag(home, f"run-{run}", commit)
    _send_history(home)
    return commit


@contextlib.contextmanager
def pinned_params(home: Path, pinned: Path) -> Iterator[None]:
    """While the block lasts the home's params.yaml is the run's, so that what is committed is what was used.

    An edit made since the run began waits beside `pinned` and comes back, also after a killed attempt's repetition.
    """
    current = home / "params.yaml"
    edited = pinned.with_name("params.edited.yaml")
    if pinned.exists() and current.read_bytes() != pinned.read_bytes():
        if not edited.exists():
            write_durably(edited, current.read_bytes())
        write_durably(current, pinned.read_bytes())
    try:
        yield
    finally:
        if edited.exists():
            edited.replace(current)


def dataset_hash(home: Path, revision: str = "HEAD") -> str:
    """DVC's hash of dataset/, from dataset.dvc."""
    found = re.search(r"md5: (\S+)", git(home, "show", f"{revision}:dataset.dvc"))
    if found is None:
        raise WorkspaceError(
            f"dataset.dvc names no hash at {revision} of the home {home}; `git -C {home} log dataset.dvc`"
        )
    return found[1]


def head(home: Path) -> str:
    return git(home, "rev-parse", "HEAD").strip()


def has_tag(home: Path, tag: str) -> bool:
    return git(home, "tag", "--list", tag).strip() == tag


def clone_at(home: Path, tag: str, target: Path) -> None:
    """A clone of the home at a tag, sharing its DVC cache; data, base and model are checked out."""
    if not has_tag(home, tag):
        raise WorkspaceError(f"the home {home} has no tag {tag}; `git -C {home} tag` lists them")
    git(home.parent, "clone", "--quiet", "--branch", tag, "--", str(home), str(target))
    (target / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {home / '.dvc' / 'cache'}\n")


def forget_weights(home: Path, runs: Iterable[int], kept_runs: Iterable[int]) -> int:
    """Removes from DVC's cache the weights that only these runs name; returns how many bytes that freed.

    Everything else stays, the data above all: `dvc gc` would drop what old dataset versions alone name. The object
    store forgets them too; what a remote of somebody's own (DVC_REMOTE_URL) holds stays there.
    """
    forgotten = set().union(*(_weights_of(home, f"run-{run}") for run in runs))
    if not forgotten:
        return 0
    kept = set().union(_weights_of(home, "HEAD"), *(_weights_of(home, f"run-{run}") for run in kept_runs))
    freed_bytes = 0
    if settings().dvc_remote_url is None:
        mirror.forget(forgotten - kept)
    for path in forgotten - kept:
        with contextlib.suppress(FileNotFoundError):
            freed_bytes += path.stat().st_size
            path.unlink()
    return freed_bytes


def _weights_of(home: Path, revision: str) -> set[Path]:
    """The cache's files of the model a run made and of the one it started from."""
    try:
        lock = yaml.safe_load(git(home, "show", f"{revision}:dvc.lock"))
    except WorkspaceError:  # the run ended before its tag
        return set()
    train = lock["stages"]["train"]
    named = [entry["md5"] for entry in (*train["deps"], *train["outs"]) if entry["path"] in ("base", "model")]
    found = set()
    for folder in map(partial(_cached, home), named):
        if folder.exists():
            files = json.loads(folder.read_text())
            found |= {_cached(home, file["md5"]) for file in files if file["relpath"] in WEIGHTS}
    return found


def _cached(home: Path, md5: str) -> Path:
    return home / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def push(home: Path) -> int:
    """What DVC's remote does not have yet of the present dataset and model. Returns how many files that were."""
    with _dvc_quiet(), contextlib.chdir(home):
        from dvc.repo import Repo

        repo = Repo(str(home))
        try:
            return _push(repo, home)
        finally:
            repo.close()


def _push(repo: Any, home: Path) -> int:
    """Waits while the object store is away. Raises StoreUnavailable after ten minutes."""
    url = mirror.dvc_remote(home)
    if url is None:
        return 0
    limits = {}
    if url.startswith("s3://"):
        limits = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "read_timeout": READ_TIMEOUT_SECONDS}
        _ask_for_no_leave_to_send()
    with repo.config.edit("local") as config:
        config["remote"]["emend"] = {"url": url, **limits}
        config["core"]["remote"] = "emend"

    store = objects.store()

    def push() -> int:
        try:
            if store is not None:
                store.etag(mirror.MARK)  # DVC would wait longer to find out that nobody answers
            return int(repo.push())
        except StoreUnavailable:
            raise
        except Exception as exc:
            if store is not None:
                store.etag(mirror.MARK)  # raises StoreUnavailable when that is why
            raise WorkspaceError(f"DVC could not push to {url}: {exc}") from exc

    # The stage's own output, under what keeps DVC quiet.
    return patiently(push, lambda text: print(text, file=sys.__stdout__, flush=True))


def _ask_for_no_leave_to_send() -> None:
    """botocore asks S3 for a `100 Continue` before each body, and DVC's S3 client waits for that without limit."""
    from botocore import handlers

    handlers.BUILTIN_HANDLERS[:] = [
        each for each in handlers.BUILTIN_HANDLERS if each[1] is not handlers.add_expect_header
    ]


def _commit(home: Path, message: str) -> str:
    git(home, "add", "--", *(name for name in _TRACKED if (home / name).exists()))
    if git(home, "status", "--porcelain", "--untracked-files=no").strip():
        git(home, "commit", "--quiet", "--message", message)
    return head(home)


def _send_history(home: Path) -> None:
    patiently(lambda: mirror.send_history(home), print)


def _tag(home: Path, name: str, commit: str) -> None:
    """An earlier, killed attempt may have left the tag: it moves to what is true now."""
    git(home, "tag", "--force", name, commit)


@contextlib.contextmanager
def _dvc_quiet() -> Iterator[None]:
    """DVC prints advice meant for people at a terminal; errors still come as exceptions."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ["DVC_SITE_CACHE_DIR"] = str(settings().data_dir.resolve() / ".dvc-site-cache")
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    except EmendError:
        raise
    except sqlite3.OperationalError as exc:  # DVC's own state; it has no error class for this
        if "full" not in str(exc):
            raise
        raise DiskFull(
            "no room for the dataset version: free space on the data disk, then `emend resume`"
        ) from exc
    except Exception as exc:
        # dvc.exceptions.DvcException, but importing it here would cost every reader of this module 0.3 s.
        if type(exc).__module__.startswith("dvc"):
            raise WorkspaceError(f"DVC: {exc}") from exc
        raise
