"""A model's categories: finding the one a label means, or adding it as pending."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import Category, CategoryState, Model
from core.errors import Conflict, InvalidLabel
from core.labels import key_of

MOST_CATEGORIES = 1_000


def find_or_add(db: Session, model: str, label: str) -> Category:
    """The category of that name or alias; a new one is pending until it has enough images.

    label: normalised. Raises InvalidLabel for a retired category, Conflict when there are too many.
    """
    found = find(db, model, label)
    if found is None:
        # The model's row is the lock under which ids are given out.
        db.execute(select(Model.name).where(Model.name == model).with_for_update())
        found = find(db, model, label) or _add(db, model, label)
    if found.state is CategoryState.retired:
        raise InvalidLabel(f"the category {found.name!r} is retired; choose another")
    return found


def find(db: Session, model: str, label: str) -> Category | None:
    categories = db.scalars(select(Category).where(Category.model == model)).all()
    key = key_of(label)
    by_name = next((category for category in categories if category.key == key), None)
    return by_name or next((category for category in categories if means(category, label)), None)


def means(category: Category, label: str) -> bool:
    return key_of(label) in {category.key, *map(key_of, category.aliases)}


def _add(db: Session, model: str, label: str) -> Category:
    count, last = db.execute(
        select(func.count(), func.coalesce(func.max(Category.id), -1)).where(Category.model == model)
    ).one()
    if count >= MOST_CATEGORIES:
        raise Conflict(f"{model!r} has {count} categories already; use one of them", field="label")
    category = Category(
        model=model, id=last + 1, name=label, key=key_of(label), aliases=[], state=CategoryState.pending
    )
    db.add(category)
    db.flush()
    return category
