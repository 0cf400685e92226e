"""The command line: each verb is a function of `cellwright.commands`, its options are the function's signature.

Bad input ends with exit code 2 and one line on standard error; ``--debug`` anywhere shows the traceback instead.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Annotated, Any, get_args, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cellwright.config import Config, did_you_mean

# typer carries its own copy of click from 0.20 on: its exceptions are reached through what typer exports
UsageError = typer.BadParameter.__bases__[0]
SHORT = {"out": "-o", "num_cells": "-n"}
_COLOUR = r"\x1b\[[0-9;]*m"
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 1 a fault of ours, 130 interrupted."""
    is_debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    command = typer.main.get_command(build())
    try:
        result = command.main(args=argv or ["--help"], prog_name="cellwright", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except UsageError as error:
        return _complain(_usage(error, command))
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _complain("interrupted", code=130)
    except (ValueError, OSError, FloatingPointError) as error:
        if is_debug:
            raise
        return _complain(_one_line(error))


def _complain(text: str, code: int = 2) -> int:
    # messages of libraries may carry colours
    print(f"error: {re.sub(_COLOUR, '', text)}", file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    """Return an error's words in one line."""
    if isinstance(error, ValidationError):  # of a configuration that was built, not read
        items = [(".".join(map(str, item["loc"])), item.get("input"), item["msg"]) for item in error.errors()]
        return "; ".join(f"{name} = {given!r}: {words}" for name, given, words in items)
    return " ".join(str(error).split())


def _usage(error: Any, command: Any) -> str:
    """Return a usage error in one line, with the nearest command or option where one is near."""
    text = error.format_message().strip().rstrip(".")
    known: list[str] = list(getattr(command, "commands", {}))
    if error.ctx is not None:
        known += [word for parameter in error.ctx.command.params for word in parameter.opts]
    if "ean " not in text and (unknown := re.search(r"[Nn]o such (?:command|option):? '?([^\s']+)'?", text)):
        text += did_you_mean(unknown[1], known)
    where = error.ctx.command_path if error.ctx else "cellwright"
    return f"{' '.join(text.split())} (see '{where} --help')"


def build() -> typer.Typer:
    """Build the command line from the table of verbs."""
    from cellwright.commands import COMMANDS, GROUPS

    app = typer.Typer(
        name="cellwright",
        add_completion=False,
        rich_markup_mode=None,
        help="Single-cell foundation models in one language. --debug shows the traceback of an error.",
    )
    for name, function in COMMANDS.items():
        app.command(name)(as_command(function))
    for group, (text, functions) in GROUPS.items():
        commands = typer.Typer(rich_markup_mode=None, help=text)
        for name, function in functions.items():
            commands.command(name)(as_command(function))
        app.add_typer(commands, name=group)
    app.callback()(_root)
    return app


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"cellwright {installed('cellwright')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Hold the options that stand before a verb."""


def as_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function a signature that typer reads.

    Positional parameters are arguments, keyword-only ones options, and the fields of a keyword-only parameter that is
    a `Config` are options too. Help texts come from the numpydoc section "Parameters" and from the fields' docstrings.
    """
    texts = parameter_texts(function.__doc__ or "")
    hints = get_type_hints(function)
    parameters, groups = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(hints[name], type) and issubclass(hints[name], Config):
            groups[name] = hints[name]
            parameters += [_field_option(*item) for item in hints[name].model_fields.items()]
        else:
            parameters.append(_parameter(parameter, hints[name], texts.get(name.rstrip("_"), "")))

    def command(**given: Any) -> Any:
        for name, kind in groups.items():
            values = {field: given.pop(field) for field in kind.model_fields}
            given[name] = kind.read(values, "bad option")
        return function(**given)

    command.__doc__ = (function.__doc__ or "").strip().split("\n\n")[0]
    command.__name__ = function.__name__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return command


def _parameter(parameter: inspect.Parameter, hint: Any, text: str) -> inspect.Parameter:
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return parameter.replace(annotation=Annotated[hint, typer.Argument(help=text)], kind=_KEYWORD)
    words = [_flag(parameter.name, parameter.default), *([SHORT[parameter.name]] if parameter.name in SHORT else [])]
    return parameter.replace(annotation=Annotated[hint, typer.Option(*words, help=text)], kind=_KEYWORD)


def _field_option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return an option for a configuration field; choices are checked by the configuration itself."""
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind in (bool, int, float)]
    kind = kinds[0] if kinds else str
    help_text = " ".join((field.description or "").split())
    hint = kind if field.default is not None else kind | None
    return inspect.Parameter(
        name,
        _KEYWORD,
        default=field.default,
        annotation=Annotated[hint, typer.Option(_flag(name, field.default), help=help_text)],
    )


def _flag(name: str, default: Any) -> str:
    """Return how an option is written; one that is on unless told otherwise can be turned off."""
    plain = name.rstrip("_").removeprefix("is_").replace("_", "-")
    return f"--{plain}/--no-{plain}" if default is True else f"--{plain}"


def parameter_texts(docstring: str) -> dict[str, str]:
    """Read the section "Parameters" of a numpydoc docstring: name -> text."""
    section = re.search(r"Parameters\n\s*-+\n(.*?)(?:\n\s*\n\s*(?:Raises|Returns)\n|\Z)", docstring, re.DOTALL)
    texts: dict[str, list[str]] = {}
    name = None
    for line in inspect.cleandoc(section[1]).splitlines() if section else []:
        if line and not line.startswith(" "):
            name = line.strip()
            texts[name] = []
        elif name and line.strip():
            texts[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in texts.items()}
