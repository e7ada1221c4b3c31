"""`make secrets`: what docker-compose.yml asks for, made once."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import COMPOSE_NAMES, settings

SCRIPT = Path(__file__).parents[2] / "deploy" / "make_secrets.py"


def make_secrets(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


def pairs(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_a_new_env_has_strong_secrets_that_only_its_owner_can_read(tmp_path: Path) -> None:
    said = make_secrets(tmp_path / ".env")
    made = pairs(tmp_path / ".env")
    assert set(made) <= set(COMPOSE_NAMES)
    passwords = [value.strip("'") for name, value in made.items() if name.endswith("PASSWORD")]
    assert len(passwords) == 5
    assert len(set(passwords)) == 5
    assert all(re.fullmatch(r"[\w-]{32}", password) for password in passwords)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert "user admin" in said
    assert not any(value.strip("'") in said for name, value in made.items() if name != "EMEND_ADMIN_USER")


def test_what_is_there_stays_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nEMEND_HISTORY_DAYS=7\nPOSTGRES_PASSWORD=own\nEMEND_ADMIN_PASSWORD=\n")
    path.chmod(0o644)
    make_secrets(path)
    made = pairs(path)
    assert path.read_text().startswith("# mine\nEMEND_HISTORY_DAYS=7\nPOSTGRES_PASSWORD=own\n")
    assert made["EMEND_ADMIN_PASSWORD"]
    assert path.read_text().count("EMEND_ADMIN_PASSWORD=") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert "there already" in make_secrets(path)
    assert path.read_bytes() == before


def test_the_hash_is_of_the_password_also_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("EMEND_ADMIN_PASSWORD='a word of mine'\n")
    make_secrets(path)
    found = re.fullmatch(r"'\$6\$([^$]+)\$[\w./]{86}'", pairs(path)["EMEND_ADMIN_HASH"])
    assert found is not None
    again = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", found[1], "-stdin"],
        input="a word of mine", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert again.stdout.strip() == pairs(path)["EMEND_ADMIN_HASH"].strip("'")


def test_the_services_take_an_env_with_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_secrets(tmp_path / ".env")
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    try:
        assert settings().api_port == 8000
    finally:
        settings.cache_clear()
