"""Keeps documentation, settings, parameters and layout in step with the code.

    python -m tests.unit.test_docs      # writes the generated tables of docs/ anew

Nothing is started and no database is needed.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import AliasChoices, BaseModel
from typer.testing import CliRunner

from core.errors import EmendError
from core.settings import Settings
from pipeline.cli import app
from pipeline.params import Params
from pipeline.stages import STAGES
from pipeline.workspace import PRESETS

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "pipeline", "serving", "api", "viewer")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").glob("*.md")],
)


def test_nothing_here_is_checked_against_an_empty_list() -> None:
    assert len(DOCUMENTS) >= 15
    assert len(list(_sources())) >= 60
    assert len(_settings()) >= 15
    assert len(_keys(Params)) >= 30


# --- settings


@dataclass(frozen=True)
class Example:
    """A setting as .env.example shows it. reason: its comment."""

    value: str
    reason: str


def test_every_setting_is_in_env_example_and_nothing_else() -> None:
    assert sorted(_examples()) == sorted(_settings())


def test_env_example_shows_the_defaults_and_gives_reasons() -> None:
    for name, default in _settings().items():
        example = _examples()[name]
        if default is not None:
            assert example.value == str(default), name
        assert len(example.reason) > 15, name


def settings_table() -> str:
    rows = ["| name | default | what for |", "|---|---|---|"]
    for name, example in _examples().items():
        default = _settings()[name]
        rows.append(f"| `{name}` | {'' if default is None else f'`{default}`'} | {example.reason} |")
    return "\n".join(rows)


def _settings() -> dict[str, Any]:
    """Environment name to default."""
    found = {}
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        found[str(field.validation_alias.choices[0])] = field.default
    return found


def _examples() -> dict[str, Example]:
    found = {}
    for paragraph in (ROOT / ".env.example").read_text().split("\n\n"):
        *comments, last = paragraph.strip().splitlines()
        shown = re.fullmatch(r"#([A-Z_]+)=(.*)", last)
        if shown is not None:
            words = " ".join(line.removeprefix("#").strip() for line in comments)
            found[shown[1]] = Example(shown[2], words)
    return found


# --- parameters


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_has_every_key_and_gives_each_a_reason(preset: str) -> None:
    text = PRESETS[preset].read_text()
    written = yaml.safe_load(text)
    assert sorted(f"{s}.{k}" for s, keys in written.items() for k in keys) == sorted(_keys(Params))
    assert Params.model_validate(written)
    without = [line for line in text.splitlines() if re.match(r"  \w+:", line) and "#" not in line]
    assert without == []


def test_every_key_of_params_is_read() -> None:
    read = {
        node.attr
        for path in _sources()
        for node in ast.walk(_parsed(path))
        if isinstance(node, ast.Attribute)
    }
    assert [key for key in _keys(Params) if key.split(".")[1] not in read] == []


def parameters_table() -> str:
    values = {name: yaml.safe_load(path.read_text()) for name, path in PRESETS.items()}
    rows = ["| key | doodles | photos | reason |", "|---|---|---|---|"]
    for key, reason in _keys(Params).items():
        section, name = key.split(".")
        shown = [
            yaml.safe_dump(values[p][section][name], default_flow_style=True) for p in ("doodles", "photos")
        ]
        doodles, photos = (f"`{text.strip().removesuffix('...').strip()}`" for text in shown)
        rows.append(f"| `{key}` | {doodles} | {photos} | {reason} |")
    return "\n".join(rows)


def _keys(model: type[BaseModel]) -> dict[str, str]:
    """`section.key` to its reason."""
    found = {}
    for section, field in model.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        for name, key in field.annotation.model_fields.items():
            assert key.description, f"{section}.{name} has no reason"
            found[f"{section}.{name}"] = key.description
    return found


# --- stages


def test_every_stage_file_is_a_stage_and_has_a_main() -> None:
    files = {p.stem: p for p in (ROOT / "pipeline" / "stages").glob("*.py") if p.stem != "__init__"}
    assert sorted(files) == sorted(STAGES)
    for name, path in files.items():
        assert f'if __name__ == "__main__":\n    main("{name}", ' in path.read_text(), name


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_dvc_yaml_declares_what_a_stage_reads(name: str) -> None:
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert sorted(declared) == ["evaluate", "train"]
    stage = declared[name]
    assert stage["cmd"] == f"python -m pipeline.stages.{name} --home ."
    tree = _parsed(ROOT / "pipeline" / "stages" / f"{name}.py")
    outs = [
        out if isinstance(out, str) else next(iter(out))
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]
    written = {out.split("/")[0] for out in outs}
    # runs/ is the run's own working folder: in no version control.
    assert _home_files(tree) - {"runs"} <= {*stage["deps"], *written}
    assert _params_read(tree) <= set(stage["params"])


def _home_files(tree: ast.Module) -> set[str]:
    """The first part of every path below `home` that the module names."""
    return {
        node.right.value.split("/")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and isinstance(node.right, ast.Constant)
        and isinstance(node.right.value, str)
        and ast.unparse(node.left) in ("home", "stage.home")
    }


def _params_read(tree: ast.Module) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "stage.params"
    }


# --- errors


def test_every_error_has_a_status_and_a_code() -> None:
    for kind in _errors():
        assert 400 <= kind.status <= 599, kind
        assert re.fullmatch(r"[a-z_]+|[A-Z_]+", kind.code), kind


def test_a_code_means_one_status() -> None:
    statuses: dict[str, set[int]] = {}
    for kind in _errors():
        if not kind.__module__.startswith("serving"):
            statuses.setdefault(kind.code, set()).add(kind.status)
    assert {code: found for code, found in statuses.items() if len(found) > 1} == {}


def errors_table() -> str:
    """What the gateway answers; stages and command line fail with sentences of their own."""
    found: dict[tuple[int, str], str] = {}
    for kind in _errors():
        elsewhere = kind.__module__.startswith(("serving", "pipeline.imports"))
        if not elsewhere and (kind.status != 500 or kind is EmendError):
            key = (kind.status, kind.code)
            found[key] = found.get(key) or _means(kind)
    rows = ["| status | code | means |", "|---|---|---|"]
    return "\n".join(
        [*rows, *(f"| {status} | `{code}` | {means} |" for (status, code), means in sorted(found.items()))]
    )


def _means(kind: type[EmendError]) -> str:
    if kind is EmendError:
        return "Something went wrong here; the log has it under the request's id."
    return _MEANS.get(kind.code) or (kind.__doc__ or "").splitlines()[0]


_MEANS = {
    "invalid_image": "The image cannot be used.",
    "invalid_label": "The label cannot be used.",
    "too_large": "The body, or the number of images in it, is too large.",
    "not_found": "There is no such thing, or nothing at this address.",
    "disk_full": "The disk is full; nothing was kept.",
    "run_active": "A run of the model is active already; `run_id` says which.",
    "unknown_model": "There is no such model; the message names those there are.",
    "promotion_under_way": "The model is being promoted or rolled back just now.",
}


def _errors() -> list[type[EmendError]]:
    for module in _modules_with_errors():
        importlib.import_module(module)
    found, todo = [], [EmendError]
    while todo:
        kind = todo.pop(0)
        if kind.__module__.split(".")[0] in PACKAGES:
            found.append(kind)
        todo += kind.__subclasses__()
    return found


def _modules_with_errors() -> set[str]:
    """All that define an EmendError, but for training's, which would import torch and are StageErrors."""
    classes = [
        (node.name, {ast.unparse(base) for base in node.bases}, path)
        for path in _sources()
        if "training" not in path.parts
        for node in _parsed(path).body
        if isinstance(node, ast.ClassDef)
    ]
    names, modules = {"EmendError"}, {"core.errors"}
    grown = True
    while grown:
        new = {(name, path) for name, bases, path in classes if bases & names and name not in names}
        names |= {name for name, _ in new}
        grown = bool(new)
    for name, bases, path in classes:
        if name in names and bases & names:
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return modules


# --- metrics


def metrics_table() -> str:
    rows = ["| name | kind | labels | what |", "|---|---|---|---|"]
    for name, (kind, labels, means) in sorted(_metrics().items()):
        rows.append(f"| `{name}` | {kind.lower()} | {', '.join(labels)} | {means} |")
    return "\n".join(rows)


def _metrics() -> dict[str, tuple[str, list[str], str]]:
    found = {}
    for path in _sources():
        for node in ast.walk(_parsed(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Counter", "Gauge", "Histogram")
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and str(node.args[0].value).startswith("emend_")
            ):
                name, means, *labels = (ast.literal_eval(argument) for argument in node.args)
                found[name] = (node.func.id, labels[0] if labels else [], means)
    return found


def test_every_metric_that_a_document_names_exists() -> None:
    exported = set(_metrics())
    for document in DOCUMENTS:
        named = set(re.findall(r"\bemend_[a-z0-9_]+", document.read_text()))
        assert named <= exported, document.name


# --- generated tables

TABLES = {
    "settings": ("configuration.md", settings_table),
    "parameters": ("configuration.md", parameters_table),
    "errors": ("api.md", errors_table),
    "metrics": ("operations.md", metrics_table),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_generated_table_is_up_to_date(name: str) -> None:
    document, table = TABLES[name]
    between = _marked(name).search((ROOT / "docs" / document).read_text())
    assert between is not None, f"docs/{document} has no place for the table {name!r}"
    assert between[2].strip() == table(), "run `.venv/bin/python -m tests.unit.test_docs`"


def _marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^>]*-->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)


def write_tables() -> None:
    for name, (document, table) in TABLES.items():
        path = ROOT / "docs" / document
        text = path.read_text()
        place = _marked(name).search(text)
        assert place is not None
        path.write_text(f"{text[: place.end(1)]}\n{table()}\n\n{text[place.start(3) :]}")


# --- what documents name


def test_relative_links_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_command_that_is_named_parses() -> None:
    wrong = []
    for path in [*DOCUMENTS, *_sources()]:
        for command in _named_commands(path):
            complaint = _complaint(command)
            if complaint is not None:
                wrong.append(f"{path.relative_to(ROOT)}: emend {command}: {complaint}")
    assert wrong == []


def test_every_command_has_help() -> None:
    for name in _commands(typer.main.get_command(app)):
        done = CliRunner().invoke(app, [*name, "--help"])
        assert done.exit_code == 0, name


def test_every_command_is_documented() -> None:
    named = " ".join(path.read_text() for path in DOCUMENTS)
    assert [c for c in _commands(typer.main.get_command(app)) if f"emend {' '.join(c)}" not in named] == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in [*DOCUMENTS, *_sources()]:
        named = set(re.findall(r"(?:^ {4}|`|&& )make ([a-z-]+)", path.read_text(), re.MULTILINE))
        assert named <= targets, path.relative_to(ROOT)


def test_every_module_that_is_named_can_be_run() -> None:
    for path in [*DOCUMENTS, *_sources(), *(ROOT / "bench").glob("*.py"), *(ROOT / "examples").glob("*.py")]:
        for module in re.findall(
            r"python -m ((?:bench|examples|pipeline|tests)[\w.]*\w)(?![\w.<{])", path.read_text()
        ):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), (
                path.name,
                module,
            )


def _named_commands(path: Path) -> Iterator[str]:
    """What stands after `emend` in code: between backticks, in indented or fenced lines of a document."""
    text = path.read_text()
    spans = re.findall(r"`([^`\n]+)`", text)
    if path.suffix == ".md":
        fenced = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        spans += [line for block in fenced for line in block.splitlines()]
        spans += re.findall(r"^ {4}(\S.*)", text, re.MULTILINE)
    for span in spans:
        found = re.search(r"(?:^|[ /])emend ([a-z][^|;&>#,]*)", span)
        if found is not None:
            yield re.split(r"\s{2,}", re.sub(r"\{[^}]*\}", "X", found[1]))[0].strip()


def _complaint(command: str) -> str | None:
    """Why `emend <command>` would be wrong usage; None when it would not."""
    words = shlex.split(command)
    at: Any = typer.main.get_command(app)
    while hasattr(at, "commands"):
        if not words:
            return None
        at, *words = at.commands.get(words[0]), *words[1:]
        if at is None:
            return "there is no such command"
    options = {name: param for param in at.params for name in param.opts + param.secondary_opts}
    given = 0
    while words:
        word = words.pop(0)
        if word == "--help":
            continue
        if not word.startswith("-"):
            given += 1
        elif word not in options:
            return f"it has no option {word}"
        elif not options[word].is_flag and (not words or words.pop(0).startswith("-")):
            return f"{word} needs a value"
    taken = sum(param.param_type_name == "argument" for param in at.params)
    return f"it takes {taken} arguments" if given > taken else None


def _commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*before, name))
        else:
            yield (*before, name)


# --- layout

# Beside these every package may import itself and core.
MAY_IMPORT = {
    "core": set[str](),
    "pipeline": set[str](),
    "serving": set[str](),
    "api": {"pipeline.runs"},
    "viewer": {
        f"pipeline.{name}"
        for name in ("runs", "reports", "versions", "comparison", "schedule", "dataset", "mirror")
    },
}


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_packages_point_one_way(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package} | ({"core"} if package != "core" else set())
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in _sources(package)
        for module in _own_imports(path)
        if not any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed)
    ]
    assert wrong == []


def _own_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
            if (ROOT / node.module.replace(".", "/")).is_dir() and node.module in PACKAGES:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


# --- what must not be there

_MACHINE = re.compile(r"(?<![\w.}>*)-])/(?:work|root|home|Users)/[\w.]+")
_REGISTRY = re.compile(r"\b(?:pypi|pythonhosted|npmjs|anaconda)\.(?:org|com)\b")


def test_no_file_names_a_path_of_a_machine_or_a_package_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    found = []
    for name in filter(None, listed):
        path = ROOT / name
        if not path.is_file() or path.suffix == ".png":
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            inside_an_image = path.name == "Dockerfile"  # its paths are the container's
            if (_MACHINE.search(line) and not inside_an_image) or _REGISTRY.search(line):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert found == []


def _sources(package: str | None = None) -> Iterator[Path]:
    for name in PACKAGES if package is None else (package,):
        yield from sorted((ROOT / name).rglob("*.py"))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


if __name__ == "__main__":
    write_tables()
