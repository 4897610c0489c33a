"""Fill the pages of the documentation with what is known elsewhere in the project, so that nothing is copied by hand.

A line `{{ name }}` or `{{ name argument; argument }}` of a page is replaced by what the function of that name returns,
with the same indentation.
"""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

import typer
from agegender.cli import commands as command_line
from agegender.settings import ENV_PREFIX, Settings
from http_reference import problem_types, routes, written
from markdown_tables import code, table
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from training import cli as training_cli

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"


def on_config(config: MkDocsConfig) -> None:
    """Put the model cards into the menu."""
    (models,) = (part["Models"] for part in config.nav or [] if "Models" in part)
    for card in sorted(MODELS.glob("*.md")):
        models.append({f"Model card: {card.stem.removeprefix('age_gender_')}": f"models/{card.name}"})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere: the model cards with their plots, CONTRIBUTING and the like, the page's icon."""
    added = {str(path.relative_to(ROOT)): path for path in (*MODELS.glob("*.md"), *MODELS.glob("*/*.png"))}
    added |= {name.lower(): ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")}
    added["icon.svg"] = ROOT / "app/agegender/page/icon.svg"
    for name, path in added.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


# Links in those files, and the pages that they lead to here.
_LINKS = {
    "README.md#what-it-must-not-be-used-for": "privacy.md#what-it-must-not-be-used-for",
    "SECURITY.md": "security.md",
    "docs/settings.md": "settings.md",
    "docs/training.md": "training.md",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with everything filled in; an unknown name fails the build."""
    # Without the attribute, tables inside would not be rendered.
    markdown = markdown.replace("<details>", "<details markdown>")
    markdown = re.sub(r"(?<=\]\()[^)]+", lambda link: _LINKS.get(link[0], link[0]), markdown)
    markdown = re.sub(r"^( *)\{\{ (\w+) ?(.*?) \}\}$", _filled_in, markdown, flags=re.MULTILINE)
    # In narrow cells of tables, an interval such as 4.52-4.92 stays in one piece.
    return re.sub(
        r"^\|.*",
        lambda row: re.sub(r"(?<![`\w])([\d.%]+)-([\d.%]+)(?![`\w])", "\\1\u2011\\2", row[0]),
        markdown,
        flags=re.M,
    )


def _filled_in(place: re.Match[str]) -> str:
    arguments = place[3].split("; ") if place[3] else []
    return indent(PARTS[place[2]](*arguments), place[1])


def settings() -> str:
    """Every setting with its environment variable, its default if that is a constant, and its meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = code(field.default) if isinstance(field.default, (str, int, float, Path)) else ""
        # Two columns: three do not fit on a phone.
        rows.append((f"`{ENV_PREFIX}{name.upper()}`" + (default and f"<br>{default}"), field.description))
    return table(("variable, default", "meaning"), rows)


def file(path: str) -> str:
    """A file of the project, as it is."""
    language = {".csv": "text", ".mjs": "js", ".py": "python", ".sh": "sh"}[Path(path).suffix]
    return f"```{language}\n{(ROOT / path).read_text()}```"


def console(command: str) -> str:
    """A command with its output, run when the site is built."""
    return f"```console\n$ .venv/bin/{command}\n{_output(command)}```"


def answer() -> str:
    """The answer to the example photograph."""
    (result,) = json.loads(_output("agegender predict --json examples/astronaut.jpg"))
    return f"```json\n{written(result['prediction'])}\n```"


@cache
def _output(command: str) -> str:
    program, *arguments = command.split()
    return subprocess.run(  # noqa: S603
        [Path(sys.executable).with_name(program), *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "85"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def docstring(name: str) -> str:
    """The docstring of a module, a class or a function, by its full name."""
    return str(inspect.getdoc(pkgutil.resolve_name(name)))


def commands(program: str) -> str:
    """Each command of `program` with its arguments and options; those of serve are the settings."""
    parts = []
    group: Any = typer.main.get_command(_PROGRAMS[program])
    for name, command in group.commands.items():
        rows = [_parameter(parameter) for parameter in command.params]
        arguments = [name.strip("`") for name, _, _ in rows if not name.startswith("`--")]
        parts += [
            f"### {program} {name}",
            command.help,
            f"`{' '.join((program, name, '[OPTIONS]', *arguments))}`",
        ]
        if name == "serve":
            parts.append(
                "Its options are the [settings](settings.md): `--port` is `AGEGENDER_PORT`, and so on."
            )
        elif rows:
            parts.append(table(("argument or option", "default", "meaning"), rows))
    return "\n\n".join(parts)


_PROGRAMS = {"agegender": command_line.app, "python -m training": training_cli.app}


def _parameter(parameter: Any) -> tuple[str, str, str]:
    """Name, default and meaning of an argument or an option."""
    name = ", ".join(parameter.opts)
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs == -1 else "")
    # A switch is off by default; the meaning explains defaults that are not constants.
    default = parameter.default if type(parameter.default) in (str, int, float, type(ROOT)) else ""
    return code(name), code(default), parameter.help


def models() -> str:
    """The figures of each model on the test faces, from its metadata."""
    models = [json.loads(card.with_suffix(".json").read_text()) for card in sorted(MODELS.glob("*.md"))]
    rows = [
        (name, *(figure(model, model["metrics"]) for model in models)) for name, figure in _FIGURES.items()
    ]
    return table(
        ("", *(f"[{model['title']}](models/{model['id']}.md)" for model in models)), rows, right=True
    )


def _percent(name: str) -> Callable[[Any, dict[str, float]], str]:
    """A share, with its 95 % interval where that was measured."""
    between = (f"{name}_low", f"{name}_high")
    return lambda _, m: (
        f"{m[name]:.1%}" + (" ({:.1%}-{:.1%})".format(*map(m.get, between)) if between[0] in m else "")
    )


# The figures of each model, from its metadata and the metrics in it.
_FIGURES: dict[str, Callable[[dict[str, Any], dict[str, float]], str]] = {
    "age, mean absolute error": lambda _, m: (
        f"{m['age_mae']:.2f} years ({m['age_mae_low']:.2f}-{m['age_mae_high']:.2f})"
    ),
    "age within 5 years": _percent("age_cs5"),
    "interval holds the true age": _percent("interval_coverage"),
    "its mean width": lambda _, m: f"{m['interval_width']:.1f} years",
    "gender right": _percent("gender_accuracy"),
    "gender right, 5 years and older": _percent("gender_accuracy_from_5_years"),
    "calibration error of gender": _percent("gender_calibration_error"),
    "FairFace, age in the right or next bin": _percent("fairface_right_or_next_bin"),
    "FairFace, gender right": _percent("fairface_gender_accuracy"),
    "test faces, UTKFace and FairFace": lambda _, m: f"{m['n']:,} and {m['fairface_n']:,.0f}",
    "parameters": lambda model, _: f"{model['parameters'] / 1e6:.1f} million",
    "file served": lambda model, _: (
        f"{(MODELS / model['id']).with_suffix('.onnx').stat().st_size / 1e6:.1f} MB"
    ),
    "made": lambda model, _: model["created"][:10],
}


def card(model_id: str, heading: str) -> str:
    """The section `heading` of a model's card, without its plots."""
    text = (MODELS / f"{model_id}.md").read_text()
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|^<details>|\Z)", text, re.MULTILINE | re.DOTALL)
    if match is None:
        raise ValueError(f"{model_id}.md has no heading {heading!r}")
    return re.sub(r"^!\[.*\n?", "", match[1], flags=re.MULTILINE).strip()


PARTS: dict[str, Callable[..., str]] = {
    part.__name__: part
    for part in (answer, card, commands, console, docstring, file, models, problem_types, routes, settings)
}
