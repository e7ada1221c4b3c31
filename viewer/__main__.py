"""Runs the viewer: `python -m viewer`. Settings say where (core/settings.py)."""

from __future__ import annotations

from core import start, web
from core.settings import settings
from viewer.app import create_app


def main() -> None:
    start.begin("viewer")
    web.serve(create_app(), settings().viewer_port, "viewer")


if __name__ == "__main__":
    main()
