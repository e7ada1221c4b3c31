"""What a transaction leaves behind."""

from __future__ import annotations

import gc

from sqlalchemy import text

from core.database import session


def test_a_transaction_leaves_no_class_behind(emend_environment: dict[str, str]) -> None:
    """The gateway has some in a second, and Python's collector comes seldom there (core/memory.py)."""

    def ask() -> None:
        with session() as db:
            assert db.scalar(text("select 1")) == 1

    ask()
    gc.collect()
    gc.disable()
    try:
        before = _classes()
        for _ in range(20):
            ask()
        assert _classes() == before
    finally:
        gc.enable()


def _classes() -> int:
    # `isinstance` would ask each object for its `__class__`, and some that are deprecated warn at that.
    return sum(issubclass(type(each), type) for each in gc.get_objects())
