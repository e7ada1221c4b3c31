"""Models: making one (home and row), and taking a staged import in."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import yaml
from sqlalchemy import select

from core import categories
from core.database import Import, ImportStatus, Model, session
from core.errors import InvalidInput, NotFound
from core.images import InputSpec
from core.settings import settings
from core.storage import replacing
from pipeline import params, workspace
from pipeline.imports import StagedImport

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_RESERVED = {"postgres", "mlflow", "logs", "serving"}  # other folders of data/


def home_of(model: str) -> Path:
    return (settings().data_dir / model).resolve()


def names() -> list[str]:
    with session() as db:
        return list(db.scalars(select(Model.name).order_by(Model.created_at)))


def exists(model: str) -> bool:
    with session() as db:
        return db.get(Model, model) is not None


def require(model: str) -> None:
    """Raises NotFound that names the models there are."""
    if not exists(model):
        known = ", ".join(names()) or "none yet"
        raise NotFound(f"there is no model {model!r}; the models are: {known}", field="model")


def check_name(model: str) -> None:
    """Raises InvalidInput."""
    if _NAME.fullmatch(model) is None or model in _RESERVED:
        raise InvalidInput(
            f"{model!r} cannot be a model's name: use up to 32 lower-case letters, digits and dashes",
            field="model",
        )


def make(model: str, preset: str) -> None:
    """Makes home and row; does nothing when both are there. preset: a name of workspace.PRESETS."""
    check_name(model)
    home = home_of(model)
    workspace.create_home(home, workspace.PRESETS[preset].read_text())
    chosen = params.load(home)
    with session() as db:
        if db.get(Model, model) is None:
            db.add(Model(name=model, params=chosen.model_dump(mode="json")))


def stage(model: str, preset: str, work: Callable[[Path, InputSpec], StagedImport]) -> StagedImport:
    """Lets `work` stage an import into the model's home; a new model is made only when there is something for it.

    Raises what `work` raises; a model that was not there before is then not there either.
    """
    check_name(model)
    home = home_of(model)
    if (home / "params.yaml").exists():
        staged = work(home, params.load(home).input.spec)
        make(model, preset)
        return staged
    text = workspace.PRESETS[preset].read_text()
    spec = params.parse(yaml.safe_load(text), preset).input.spec
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=home.parent) as folder:
        staged = work(Path(folder), spec)
        make(model, preset)
        with replacing(home / staged.file) as path:
            (Path(folder) / staged.file).replace(path)
    return staged


def take_in(model: str, staged: StagedImport) -> None:
    """Records a staged shard, and its categories, as waiting for the next run."""
    with session() as db:
        for label in sorted(staged.categories):
            categories.find_or_add(db, model, label)
        db.add(
            Import(
                id=UUID(staged.id),
                model=model,
                file=staged.file,
                source=staged.source,
                images=staged.images,
                status=ImportStatus.staged,
            )
        )


def preset_of(model: str) -> str:
    """Which preset a new model of that name starts from."""
    return model if model in workspace.PRESETS else "photos"
