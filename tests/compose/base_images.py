"""Local images under upstream's names, made from Debian and the package index, where no registry can be reached.

    python -m tests.compose.engine start
    python -m tests.compose.base_images                  make what is missing or changed
    python -m tests.compose.base_images postgres nginx   only these, and what they need

They stand in for upstream's images in tests: the same names, commands, environment, paths, ports and users as far as
docker-compose.yml uses them, with Debian's programs inside. `IMAGES` is the one list of names and tags; the compose
file uses the same. Three bases are shared by all: Debian 12 (whose Python, 3.11, is the one Emend is developed with),
Debian 13 (whose servers are newer) and Debian's testing (whose nginx keeps connections to names).

What the machine needs to reach its package index is handed on at run time and kept in the images alone: the CA bundle
that SSL_CERT_FILE names, and the settings in `PASSED_ON`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.compose import engine

T = TypeVar("T")

FOLDER = Path(__file__).parent / "images"
CA_BUNDLE_PATH = "/usr/local/share/machine-ca.pem"
BUILD_TIMEOUT_SECONDS = 1800.0
DEBIAN_SUITES = ("bookworm", "trixie", "forky")
LABEL = "emend.recipe"

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
PASSED_ON = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"),
    *("UV_INDEX", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "NPM_CONFIG_REGISTRY"),
)
CA_SETTINGS = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")

# What Debian's own "slim" images leave out, copyright files aside.
LEFT_OUT_PATHS = ("doc/*", "man/*", "info/*", "locale/*", "groff/*", "lintian/*")
KEPT_PATHS = ("doc/*/copyright",)
# Without it Debian 12 brings usrmerge, and with that all of Perl.
MERGED_USR = {"bookworm": ("--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")}
# A mirror may be weeks old, and only testing's lists say until when they hold.
OF_TESTING = {"forky": ('--aptopt=Acquire::Check-Valid-Until "false"',)}


@dataclass(frozen=True)
class Image:
    """One stand-in: `name` as in the compose file, `folder` under images/ with its Dockerfile."""

    folder: str
    name: str
    needs: tuple[str, ...] = ()


IMAGES = (
    Image("python", "python:3.11-slim-bookworm"),
    Image("postgres", "postgres:17.11-trixie"),
    Image("nginx", "nginxinc/nginx-unprivileged:1.30.6"),
    Image("prometheus", "prom/prometheus:v2.53.3"),
    Image("node-exporter", "prom/node-exporter:v1.9.0"),
    Image("alertmanager", "prom/alertmanager:v0.28.1"),
    Image("minio", "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z", needs=("python", "nginx")),
)


def make(folders: Sequence[str] = ()) -> dict[str, float]:
    """Makes the images of these folders (none: all) and what they need; seconds for each, by its name."""
    known = {image.folder: image for image in IMAGES}
    if unknown := sorted(set(folders) - set(known)):
        raise engine.EngineError(f"no such image: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = set(folders or known)
    wanted |= {needed for folder in wanted for needed in known[folder].needs}
    seconds_by_name = {f"debian:{suite}-slim": _timed(_make_debian, suite) for suite in DEBIAN_SUITES}
    for image in IMAGES:
        if image.folder in wanted:
            seconds_by_name[image.name] = _timed(_build, image)
    engine.run("docker", "image", "prune", "--force")  # what the new ones replaced
    return seconds_by_name


def _timed(work: Callable[[T], None], argument: T) -> float:
    started = time.monotonic()
    work(argument)
    return time.monotonic() - started


def _build(image: Image) -> None:
    """docker build; unchanged steps come from the build cache. Needs the debian images."""
    proxies = [f"--build-arg={name}" for name in PROXIES if name in os.environ]
    context = FOLDER / image.folder
    engine.run(
        "docker", "build", "--tag", image.name, *proxies, context, timeout_seconds=BUILD_TIMEOUT_SECONDS
    )


def _make_debian(suite: str) -> None:
    """`debian:<suite>-slim` by mmdebstrap, unless it is there from the same recipe, CA bundle and settings."""
    name = f"debian:{suite}-slim"
    bundle = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    archive = engine.ENGINE_DIR / f"{suite}.tar"
    apt_settings = FOLDER / "debian" / "docker-clean"
    settings = dict.fromkeys(CA_SETTINGS, CA_BUNDLE_PATH)
    settings |= {setting: os.environ[setting] for setting in PASSED_ON if setting in os.environ}
    command = [
        *("nice", "mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"),
        *MERGED_USR.get(suite, ()),
        *OF_TESTING.get(suite, ()),
        *(f"--dpkgopt=path-exclude=/usr/share/{path}" for path in LEFT_OUT_PATHS),
        *(f"--dpkgopt=path-include=/usr/share/{path}" for path in KEPT_PATHS),
        f"--customize-hook=upload {bundle} {CA_BUNDLE_PATH}",
        f'--customize-hook=chmod 644 "$1{CA_BUNDLE_PATH}"',
        f"--customize-hook=upload {apt_settings} /etc/apt/apt.conf.d/docker-clean",
        '--customize-hook=rm -f "$1"/var/cache/apt/*.bin',
        *(suite, str(archive), engine.debian_mirror()),
    ]
    contents = [bundle.read_bytes(), apt_settings.read_bytes()]
    recipe = hashlib.sha256(repr([command, sorted(settings.items()), contents]).encode()).hexdigest()
    if _label(name) == recipe:
        return
    changes = [f"--change=ENV {setting}={value}" for setting, value in settings.items()]
    changes += ['--change=CMD ["bash"]', f"--change=LABEL {LABEL}={recipe}"]
    try:
        engine.run(*command, timeout_seconds=BUILD_TIMEOUT_SECONDS)
        engine.run("docker", "import", *changes, archive, name)
    finally:
        archive.unlink(missing_ok=True)


def _label(name: str) -> str:
    """The recipe that a local image was made from; empty where there is no such image."""
    try:
        return engine.run(
            "docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', name
        ).strip()
    except engine.CommandFailed:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Stand-ins for upstream's container images")
    parser.add_argument("folders", nargs="*", help="of tests/compose/images; all when none is named")
    try:
        for name, seconds in make(parser.parse_args(arguments).folders).items():
            size_bytes = int(engine.run("docker", "image", "inspect", "--format", "{{.Size}}", name))
            print(f"{name:55} {size_bytes / 1e6:6.0f} MB  {seconds:5.1f} s")
    except engine.EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
