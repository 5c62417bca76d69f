"""Writes docs/reference: a page for each file of the package, and the command line from the app itself.

The tests compare the pages with what this gives. Run it after adding a file, a command or an option.
"""

from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from typer.main import get_command

from fullyconv.cli import app
from fullyconv.config import PretrainConfig, TrainConfig

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
SOURCE = ROOT / "src" / "fullyconv"

CLI_HEAD = """# Command line

Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 failure; 2 wrong usage
or data; 130 interrupted (Ctrl-C); 143 terminated.
"""


def pages():
    """All pages by file name. A folder of the package has one page for all its files."""
    found = {"cli.md": CLI_HEAD + command_sections(get_command(app), "fullyconv")}
    for path in sorted(SOURCE.iterdir()):
        if path.name == "commands":
            continue  # cli.md has what they say
        if (path / "__init__.py").exists():
            families = sorted(file.stem for file in path.glob("[!_]*.py"))
            found[f"{path.name}.md"] = module_page(path.name, *(f"{path.name}.{family}" for family in families))
        elif path.suffix == ".py" and path.stem not in {"__init__", "__main__", "cli"}:
            found[f"{path.stem}.md"] = module_page(path.stem)
    found["config.md"] += "\n## Settings of training\n" + settings_table(TrainConfig)
    found["config.md"] += "\n## Settings of pretraining\n" + settings_table(PretrainConfig)
    return found


def module_page(*names):
    """A page with what the docstrings of modules say of their public names."""
    sections = [
        f"{'#' if name == names[0] else '##'} fullyconv.{name}\n\n"
        f"```{{eval-rst}}\n.. automodule:: fullyconv.{name}\n   :members:\n```\n"
        for name in names
    ]
    return "\n".join(sections)


def settings_table(config):
    """A table of the fields of a class of settings."""
    hints = get_type_hints(config, include_extras=True)
    rows = [
        (f"`{field.name}`", get_args(hints[field.name])[1].description, f"`{field.default!r}`")
        for field in fields(config)
    ]
    return table(["setting", "meaning", "default"], rows)


def command_sections(command, name):
    """A section for a command and one for each command below it."""
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    commands = getattr(command, "commands", {})
    usage = [name, *(["[OPTIONS]"] if options else []), *(["COMMAND"] if commands else [])]
    usage += [argument.metavar for argument in arguments]
    text = f"\n## {name}\n\n{command.help}\n\n```text\n{' '.join(usage)}\n```\n"
    if arguments:
        text += table(["argument", "meaning"], [(f"`{a.metavar}`", a.help) for a in arguments])
    if options:
        text += table(["option", "meaning", "default"], [option_row(option) for option in options])
    return text + "".join(command_sections(inner, f"{name} {part}") for part, inner in commands.items())


def option_row(option):
    """The cells of an option: how it is written, what it means, its default."""
    written = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if not option.is_flag:
        written += f" `{option.metavar or option.name.upper()}`"
    default = option.show_default if isinstance(option.show_default, str) else option.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    if option.required:
        default = "required"
    # A bracket and a caret begin a footnote.
    return written, option.help.replace("[^", r"\[^"), "" if default is None else f"`{default}`"


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for file, text in pages().items():
        (REFERENCE / file).write_text(text, encoding="utf-8")
        print(REFERENCE / file)
