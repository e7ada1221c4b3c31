"""Runs the gateway: `python -m api`. Settings say where (core/settings.py)."""

from __future__ import annotations

from api.app import create_application
from core import start, web
from core.settings import settings


def main() -> None:
    start.begin("gateway")
    web.serve(create_application(), settings().api_port, "gateway")


if __name__ == "__main__":
    main()
