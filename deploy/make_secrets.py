"""Makes the secrets that docker-compose.yml asks for, once: python3 deploy/make_secrets.py [FILE].

Called by `make secrets`. Appends to `.env`, which compose reads by itself, what is not in it yet; what is there stays.
The file is its owner's only (mode 600). The password of nginx is there twice: as it is typed, and hashed as nginx wants
it; for one of your own write it there, remove the line of the hash, and call this again.

Any Python 3 can run this; the hash is made by openssl.
"""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

RANDOM_BYTES = 24  # 32 letters, digits, - and _: nothing that a URL or a shell would read otherwise
REASONS = {
    "POSTGRES_PASSWORD": "PostgreSQL, of the user emend",
    "MINIO_ROOT_USER": "the object store: its access key",
    "MINIO_ROOT_PASSWORD": "the object store: its secret key",
    "GRAFANA_ADMIN_PASSWORD": "Grafana, of its user admin",
    "PGADMIN_PASSWORD": "pgAdmin, if its profile is started",
    "EMEND_ADMIN_USER": "nginx: whoever may start runs, roll back, see MLflow and Grafana",
    "EMEND_ADMIN_PASSWORD": "nginx: that user's password",
    "EMEND_ADMIN_HASH": "nginx: the same, hashed",
}


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else ".env")
    if shutil.which("openssl") is None:
        sys.exit("error: openssl is not installed; it hashes nginx's password")
    present = read(path)
    made = missing(present)
    if made:
        append(path, made)
    path.chmod(0o600)
    print(f"{path}: made {', '.join(made)}" if made else f"{path}: everything is there already")
    print(
        f"nginx asks for the user {(present | made)['EMEND_ADMIN_USER']}; the password is EMEND_ADMIN_PASSWORD there"
    )


def missing(present: "dict[str, str]") -> "dict[str, str]":
    """Name to new value of what is not there, or empty."""
    made = {}
    for name in REASONS:
        if not present.get(name):
            made[name] = value_of(name, present | made)
    return made


def value_of(name: str, known: "dict[str, str]") -> str:
    if name == "EMEND_ADMIN_USER":
        return "admin"
    if name == "MINIO_ROOT_USER":
        return "emend-" + secrets.token_hex(4)
    if name == "EMEND_ADMIN_HASH":
        return hashed(known["EMEND_ADMIN_PASSWORD"])
    return secrets.token_urlsafe(RANDOM_BYTES)


def hashed(password: str) -> str:
    """SHA-512 crypt: what both glibc and musl know, and so every nginx."""
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def read(path: Path) -> "dict[str, str]":
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, value in pairs}


def append(path: Path, made: "dict[str, str]") -> None:
    """Through a file beside it, so that a half-written one never stands there. An empty line of the same name goes."""
    before = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in before if line.split("=", 1)[0].strip() not in made]
    if kept and kept[-1]:
        kept.append("")
    # Single quotes: compose would read the hash's $ as a variable.
    lines = [f"# {REASONS[name]}\n{name}='{value}'" for name, value in made.items()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join([*kept, *lines]) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    main()
