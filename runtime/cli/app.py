"""The click program: built from `grammar`, asked only when `argv` did not understand, so that it may take its time.

It prints help, says what is wrong and what was probably meant, and accepts what is right after all (bundled short
flags, `-td`), with the same result as `argv` would give. It must not carry out a command, nor know one that the
table does not list.
"""

from __future__ import annotations

import difflib
from typing import Any

import click

from runtime.cli.argv import BOOLEANS, Args, attribute, global_options, seconds
from runtime.cli.grammar import COMMANDS
from runtime.cli.options import CHOICE, DURATION, FLAG, GLOBAL, HELP, INT, LIST, MAYBE, ONE, PAYLOAD
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.options import Option, Positional


class BadWords(UsageError):
    """What is wrong with the words; `options` has the global options, as far as they could be read."""

    def __init__(self, message: str, hint: str, options: Args) -> None:
        super().__init__(message, hint, code="usage")
        self.options = options


class _Done(Exception):
    """Leaves click with an answer: the Args, or the text of a help page."""

    def __init__(self, answer: Args | str) -> None:
        self.answer = answer


class _Number(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic in newer releases only
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            self.fail(f'"{value}" is not a decimal number')
        return int(value)


class _Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = value if isinstance(value, float) else seconds(value)
        if found is None:
            self.fail(f'"{value}" is not a duration such as 5s or 1m30s')
        return found


class _Words(click.Choice):  # type: ignore[type-arg, unused-ignore]
    # click turns a choice into the member of an enumeration or back; these are words and stay words
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return (
            value if value == "" and param is not None and param.default == "" else super().convert(value, param, ctx)
        )


def read(words: list[str]) -> Args | str:
    """The arguments that `words` mean, or a help page to print; BadWords if they mean nothing."""
    at = _normal_options(GLOBAL, words, 0, [], until_word=True)
    if words[at : at + 1] in (["help"], ["h"]) and len(words) < at + 3:
        words = [*words[:at], *words[at + 1 :], "--help"]  # as runc has it
    normal, command = _normal(words)
    program = _program()
    try:
        # not main(): a variable of the caller's would have it write a completion script instead, and run a shell for that
        with program.make_context("pyrunc", normal) as context:
            program.invoke(context)
    except _Done as done:
        return done.answer
    except click.UsageError as error:
        raise _explained(error, words, command) from None
    raise AssertionError("click returned without an answer")


def _program() -> click.Group:
    group = _Group(
        "pyrunc",
        help="Run containers as the Open Container Initiative's runtime specification describes them.",
        params=[_parameter(option) for option in GLOBAL],
        commands={name: _command(name) for name in COMMANDS},
        callback=_global_answer,
        invoke_without_command=True,
        add_help_option=False,
        subcommand_metavar="COMMAND [OPTIONS] ...",
        context_settings={"max_content_width": 100, "terminal_width": 100},
    )
    return group


class _Group(click.Group):
    """Lists the commands in the order of a container's life and knows near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        _version(ctx)
        if args[0] in COMMANDS:
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(args[0], COMMANDS, 1)
        raise click.UsageError(f'unknown command "{args[0]}"' + (f', did you mean "{near[0]}"?' if near else ""), ctx)


def _command(name: str) -> click.Command:
    summary, positionals, options, description = COMMANDS[name]
    payload = bool(positionals) and positionals[-1][1] == PAYLOAD
    return click.Command(
        name,
        help=f"{summary[0].upper()}{summary[1:]}.\n\n{description}",
        short_help=summary,
        params=[
            *(
                click.Argument([word], nargs=-1 if need == PAYLOAD else 1, required=need == ONE, type=click.UNPROCESSED)
                for word, need, _ in positionals
            ),
            *(_parameter(option) for option in (*options, HELP)),
        ],
        callback=_answer,
        add_help_option=False,
        context_settings={"allow_interspersed_args": not payload, "max_content_width": 100, "terminal_width": 100},
    )


def _parameter(option: Option) -> click.Option:
    names, kind, default, metavar, text = option
    declared = [attribute(option), *map(_spelled, names)]
    if kind == FLAG:
        # eager: --help must be seen before a missing argument is
        return click.Option(
            declared,
            is_flag=True,
            default=False,
            help=text,
            is_eager=names == HELP[0],
            callback=_help if names == HELP[0] else None,
        )
    if kind == LIST:
        return click.Option(
            declared, multiple=True, metavar=metavar, help=text + ", may be repeated", type=click.UNPROCESSED
        )
    types: dict[str, Any] = {INT: _Number(), DURATION: _Seconds(), CHOICE: _Words(metavar.split("|"))}
    return click.Option(declared, default=default, metavar=metavar, help=text, type=types.get(kind, click.UNPROCESSED))


def _help(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:
        raise _Done(ctx.get_help() + "\n")
    return value


def _values(ctx: click.Context) -> dict[str, Any]:
    """What click read, in argv's types: repeated options are lists, what was left out of the positionals is empty."""
    out = dict(ctx.params)
    positionals: tuple[Positional, ...] = ()
    options = GLOBAL
    if ctx.parent is not None:
        _, positionals, options, _ = COMMANDS[str(ctx.info_name)]
    for option in options:
        if option[1] == LIST:
            out[attribute(option)] = list(out[attribute(option)])
    for name, need, _ in positionals:
        if need == PAYLOAD:
            out[name] = list(out[name])
        elif need == MAYBE and out[name] is None:
            out[name] = ""
    return out


def _version(ctx: click.Context) -> None:
    if ctx.params["version"]:
        raise _Done(Args(command="version", **_values(ctx)))


def _global_answer(**_: Any) -> None:
    ctx = click.get_current_context()
    _version(ctx)
    if ctx.invoked_subcommand is None:
        raise click.UsageError("no command given", ctx)


def _answer(**_: Any) -> None:
    ctx = click.get_current_context()
    assert ctx.parent is not None
    raise _Done(Args(command=str(ctx.info_name), **{**_values(ctx.parent), **_values(ctx)}))


def _explained(error: click.UsageError, words: list[str], command: str) -> BadWords:
    """Click's complaint in this project's form: one line, no capital, no full stop, and where help is found."""
    if error.ctx is not None and error.ctx.parent is None:
        command = ""  # the mistake is in the global options
    text = error.format_message().rstrip(".").replace("'", '"').replace("\n", " ")
    if isinstance(error, click.NoSuchOption):
        text = f"no such option: {error.option_name}"
        options = (*COMMANDS[command][2], HELP) if command else GLOBAL
        near = difflib.get_close_matches(
            error.option_name, [_spelled(name) for option in options for name in option[0]], 1, 0.75
        )
        if command and error.option_name in [_spelled(name) for option in GLOBAL for name in option[0]]:
            text += f", give it before {command}"
        elif near:
            text += f", did you mean {near[0]}?"
    message = f"{command}: " if command else ""
    hint = f"pyrunc {command + ' ' if command else ''}--help shows what there is"
    if isinstance(error, click.BadOptionUsage) and text.endswith("requires an argument"):
        # Go's words: podman gives `restore` an option without its value, and takes them for a sign that it is known
        hint += f" (flag needs an argument: {error.option_name})"
    return BadWords(message + text[:1].lower() + text[1:], hint, Args(**global_options(words)))


def _normal(words: list[str]) -> tuple[list[str], str]:
    """Go's spellings in click's: `-flag` as `--flag`, `--f` as `-f`, `--flag=false` as no flag at all; and the command."""
    out: list[str] = []
    at = _normal_options(GLOBAL, words, 0, out, until_word=True)
    if words[at : at + 1] == ["--"] and words[at + 1 : at + 2] and words[at + 1] in COMMANDS:
        at += 1
    command = words[at] if at < len(words) and words[at] in COMMANDS else ""
    if command:
        _, positionals, options, _ = COMMANDS[command]
        out.append(command)
        payload = bool(positionals) and positionals[-1][1] == PAYLOAD
        at = _normal_options((*options, HELP), words, at + 1, out, until_word=payload)
    return out + words[at:], command


def _normal_options(options: tuple[Option, ...], words: list[str], at: int, out: list[str], *, until_word: bool) -> int:
    known = {name: option for option in options for name in option[0]}
    flags = {name for name, option in known.items() if option[1] == FLAG and len(name) == 1}
    begin = len(out)
    while at < len(words) and words[at] != "--":
        word = words[at]
        if word[:1] != "-" or word == "-":
            if until_word:
                break
            out.append(word)
            at += 1
            continue
        at += 1
        name, equals, value = word[2 if word[1] == "-" else 1 :].partition("=")
        option = known.get(name)
        if option is None and word[1] != "-" and not equals and set(name) <= flags:
            out.extend("-" + letter for letter in name)
        elif option is None:
            # as a long option click cannot mistake it for a short one with its value attached: -bundel is no -b undel
            out.append("--" + word.lstrip("-"))
        elif option[1] != FLAG:
            # a value goes after `=`, where click cannot take it for anything else
            if not equals and at < len(words):
                value, equals = words[at], "="
                at += 1
            out.append(f"--{option[0][0]}={value}" if equals else _spelled(name))
        elif not equals:
            out.append(_spelled(name))
        elif value in BOOLEANS:
            # the last one counts, so an earlier one is forgotten
            out[begin:] = [other for other in out[begin:] if other not in map(_spelled, option[0])]
            out.extend([_spelled(name)] if BOOLEANS[value] else [])
        else:
            out.append(f"--{option[0][0]}={value}")
    return at


def _spelled(name: str) -> str:
    return ("--" if len(name) > 1 else "-") + name
