"""A command line as a frozen dataclass: its fields are the options, its docstring is the help.

tyro turns words into values. What stands here is the form of errors: one line that names the option, what it takes and
the closest one that there is.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from stapo.errors import ConfigError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound="Command")
_DIGITS = 18
SET_FLAG = re.compile(r"--eval\.sets\.[A-Za-z0-9_-]+\.[a-z_-]+")
_NAMED = (("rewards", "weights"), ("rewards", "functions"), ("model", "chat_template_kwargs"))
"""Settings that are mappings, whose keys are names of the user's."""
_NEEDS = {"DIR": "a folder", "NAME": "a name", "N": "a number", "SECONDS": "a number of seconds"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the commands share; a subclass explains its options under "Attributes:".

    Class variables beside the fields: EXAMPLES and NOTES close the help; PASSES are the beginnings of flags that are
    not options of the command itself ("env." and "agent.", or "" for every setting); SHOWN are the settings in the
    short help; ALSO has other spellings of options.
    """

    EXAMPLES: ClassVar[str] = ""
    NOTES: ClassVar[str] = ""
    PASSES: ClassVar[tuple[str, ...]] = ()
    SHOWN: ClassVar[tuple[str, ...]] = ()
    ALSO: ClassVar[dict[str, str]] = {}

    @classmethod
    def own_words(cls, argv: list[str]) -> list[str]:
        """The words that are options, settings and their values; a command may have others."""
        return argv

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code.

        Args:
            settings: words that `PASSES` lets through.
            argv: the whole command line after the command's name.
        """
        raise NotImplementedError


def arg(
    metavar: str, default: Any = MISSING, *, needs: str = "", least: float | None = None, expects: str = "",
    commas: bool = False,
) -> Any:  # fmt: skip
    """A field of a command.

    Args:
        metavar: what stands for the value in the help.
        default: the value where the option is not given; a word without one is required.
        needs: what is missing where the option has no value, or the word is not there.
        least: smallest number that is taken.
        expects: the numbers that are taken, in words; made from `least` where it is empty.
        commas: whether commas separate values, as blanks do.
    """
    about = {"metavar": metavar, "needs": needs, "least": least, "expects": expects, "commas": commas}
    return field(default=default, metadata=about)


def is_word(option: Field[Any]) -> bool:
    """Whether a field is given by its place, without a flag."""
    return str(option.type).startswith("Positional[")


def flag_of(option: Field[Any]) -> str:
    """The flag of a field."""
    return f"--{option.name.strip('_').replace('_', '-')}"


def segments(args: Iterable[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Each flag with its words, and whether it is ``flag=word``; "" has the words before the first flag."""
    flag, words, joined = "", list[str](), False
    for word in args:
        if word.startswith("--") and len(word) > 2:
            yield flag, words, joined
            flag, equals, value = word.partition("=")
            words, joined = [value] if equals else [], bool(equals)
        else:
            words.append(word)
    yield flag, words, joined


def value_of(args: list[str], flag: str) -> str | None:
    """The value that a flag has last; None where it is not given."""
    found = [words[0] if words else "" for name, words, _ in segments(args) if _plain(name) == flag]
    return found[-1] if found else None


def read(cls: type[C], name: str, argv: list[str]) -> tuple[C, list[str]]:
    """Read a command line; returns the command and the words that are settings.

    Raises:
        ConfigError: an option that there is not, a value that does not fit, a word too many or one that is missing.
    """
    options = {flag_of(option): option for option in fields(cls) if not is_word(option)}
    place = next((option for option in fields(cls) if is_word(option)), None)
    prefixes = tuple(f"--{prefix}" for prefix in cls.PASSES)
    hints = get_type_hints(cls)
    words, own, lists, settings = list[str](), list[str](), dict[str, list[str]](), list[str]()
    for given, found, joined in segments(cls.own_words(argv)):
        flag = cls.ALSO.get(_plain(given), _plain(given))
        if not flag:
            words += found
        elif (option := options.get(flag)) is None:
            if not prefixes or not flag.startswith(prefixes):
                raise unknown_option(name, given, [*options, *prefixes, "--help", "--help-all"])
            # Of settings, only those of all commands can be lists; elsewhere what follows a value is a word again.
            taken = found if "" in cls.PASSES else found[:1]
            settings += [f"{given}={taken[0]}", *taken[1:]] if joined else [given, *taken]
            words += found[len(taken) :]
        elif hints[option.name] is bool:
            if joined:
                raise ConfigError(f"{flag} takes no value, found '{found[0]}'.")
            own, words = [*own, flag], [*words, *found]
        elif get_origin(hints[option.name]) is tuple:
            split = [part for word in found for part in word.split(",") if part] if option.metadata["commas"] else found
            lists[flag] = [*lists.get(flag, []), *_checked(flag, option, hints[option.name], split)]
        else:
            own.append(f"{flag}={_checked(flag, option, hints[option.name], found[:1])[0]}")
            words += found[1:]
    if "" in cls.PASSES:
        require_settings(settings, name, options)
    if dashed := [word for word in words if word.startswith("-") and len(word) > 1]:
        raise unknown_option(name, dashed[0], options)
    many = place is not None and get_origin(hints[place.name]) is tuple
    if len(words) > (place is not None) and not many:
        takes = "takes no argument" if place is None else "takes at most 1 argument"
        raise ConfigError(f"'stapo {name}' {takes}, found {' '.join(map(repr, words))}. See 'stapo {name} --help'.")
    if place is not None and not words and place.default is MISSING:
        raise ConfigError(f"'stapo {name}' needs {place.metadata['needs']}.")
    lines = [part for flag, values in lists.items() for part in (flag, *values)]
    return by_tyro(cls, [*words, *own, *lines], name), settings


def require_settings(args: list[str], name: str, options: Iterable[str] = ()) -> None:
    """Check that every flag is a setting, or an option of the environment.

    Raises:
        ConfigError: one is not.
    """
    from stapo.config.describe import settings_of
    from stapo.config.run_config import RunConfig

    found = {f"--{_plain(setting.name)}": setting.value for setting in settings_of(RunConfig())}
    off = ["--{}.no-{}".format(*flag[2:].rsplit(".", 1)) for flag, value in found.items() if isinstance(value, bool)]
    for flag, _, _ in segments(args):
        # tyro knows which sets and environments there are, and says what one has.
        passed = SET_FLAG.fullmatch(flag) or flag.startswith(("--env.", "--envs.")) or named_setting(flag)
        if flag and _plain(flag) not in found and _plain(flag) not in off and not passed:
            raise unknown_option(name, flag, [*options, *found])


def named_setting(flag: str) -> tuple[str, str, str] | None:
    """Section, setting and name of `--rewards.weights.NAME` and its like; the name is empty where none is given."""
    section, setting, name = (*flag.removeprefix("--").split(".", 2), "", "")[:3]
    known = (section, setting.replace("-", "_"))
    return (*known, name) if known in _NAMED else None


def _plain(flag: str) -> str:
    return flag.replace("_", "-")


def _checked(flag: str, option: Field[Any], hint: Any, words: list[str]) -> list[str]:
    """The words after a flag, once there is one, and each is a number where numbers are wanted."""
    about = option.metadata
    if not words:
        raise ConfigError(f"{flag} needs {about['needs'] or _NEEDS.get(about['metavar'], 'a value')}.")
    kinds = {hint, *get_args(hint)}
    if not kinds & {int, float}:
        return words
    least = -math.inf if about["least"] is None else about["least"]
    for word in words:
        try:
            fits = int not in kinds or re.fullmatch(rf"-?[0-9]{{1,{_DIGITS}}}", word) is not None
            fits = fits and least <= float(word) < math.inf
        except ValueError:
            fits = False
        if not fits:
            kind = "a whole number" if int in kinds else "a number"
            expected = about["expects"] or (kind if about["least"] is None else f"{kind} of {least:g} or more")
            raise ConfigError(f"{flag} is '{word}', expected {expected}.")
    return words


def require_different(seeds: Iterable[int]) -> None:
    """Check that no seed is there twice.

    Raises:
        ConfigError: one is.
    """
    seen = set[int]()
    for seed in seeds:
        if seed in seen:
            raise ConfigError(f"--seeds names a seed twice ({seed}); that would make the standard deviation too small.")
        seen.add(seed)


def unknown_option(name: str, flag: str, known: Iterable[str]) -> ConfigError:
    """The error for an option that a command does not have, with those that are called alike."""
    flags, plain = list(known), _plain(flag)
    # Its name without its group is what a setting is called in talk.
    alike = [f"'{other}'" for other in flags if "." in other and other.rpartition(".")[2] == plain.lstrip("-")][:3]
    guess = f" Did you mean {' or '.join(alike)}?" if alike else did_you_mean(plain, flags)
    return ConfigError(f"'stapo {name}' has no option '{flag}'.{guess} See 'stapo {name} --help'.")


def by_tyro(cls: type[T], args: list[str], name: str, default: T | None = None) -> T:
    """Let tyro build `cls` from words; what it has to say of them is one error.

    Args:
        cls: a dataclass.
        args: words.
        name: of the command, for the message.
        default: values of what the words leave out.

    Raises:
        ConfigError: a word that does not fit, or an error of the class itself.
    """
    import tyro

    given: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with redirect_stderr(said), _wide():
            built: T = tyro.cli(cls, prog=f"stapo {name}", args=args, **given)
            return built
    except SystemExit as err:
        raise ConfigError(f"{_unboxed(said.getvalue())} See 'stapo {name} --help'.") from err


@contextmanager
def _wide() -> Iterator[None]:
    """Inside, tyro breaks no line of an error that `_unboxed` reads."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "4000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _unboxed(text: str) -> str:
    """What an error of tyro says, without its box and its title, in one line."""
    sections: list[list[str]] = [[]]
    for line in (line.strip("│| ") for line in text.splitlines()):
        if not line.strip("─-╭╮╰╯ ") or line[0] == "╭":  # a rule, or a title in the frame
            sections.append([])
        else:
            sections[-1].append(line)
    bodies = [" ".join(section) for section in sections if section]
    framed = text.startswith("╭")  # where the terminal cannot show frames, the title is a section of its own
    said = " ".join(next(iter(bodies if framed else bodies[1:]), "").split())
    # An error of a class of ours names its setting itself.
    said = re.sub(r"^Error parsing (?!--)[\w.]+: ", "", said).removeprefix("Error parsing ").rstrip(".")
    if odd := re.match(r"(\S+): (invalid literal for int|could not convert string to float).*?'(.*)'", said):
        kind = "a whole number" if "int" in odd[2] else "a number"
        return f"{odd[1]} is '{odd[3]}', expected {kind}."
    if odd := re.match(r"invalid choice '(.*)' for argument '(.*?)'\. Expected one of \((.*)\)", said):
        choices = re.findall(r"'(.*?)'", odd[3])
        return f"{odd[2]} is '{odd[1]}', expected one of {', '.join(choices)}.{did_you_mean(odd[1], choices)}"
    return f"{said or 'the settings cannot be read'}."
