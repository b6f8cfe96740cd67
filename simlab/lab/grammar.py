"""The small language in which a policy is named: `epsilon(softmax(mf, temperature=0.5), 0.1)`.

    call  = NAME [ "(" [ arg { "," arg } ] ")" ]  |  "saved:" FOLDER
    arg   = [ NAME "=" ] value
    value = NUMBER | "true" | "false" | call | list
    list  = "[" [ plain { "," plain } ] "]"
    plain = NUMBER | "true" | "false" | NAME

A NAME is letters, digits, "-" and "_". A FOLDER ends at a comma or a closing parenthesis, or it is put in
quotes. Text is read by hand; nothing is ever evaluated.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

from simlab.errors import BadInput

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(?![\w.])")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_DEEPEST = 20

Value: TypeAlias = "float | int | bool | Call | tuple[float | int | bool | Call, ...]"
"""What an argument may be; a list is a tuple."""


@dataclass(frozen=True)
class Call:
    """A name with arguments.

    Attributes:
        name: with "-" where the writer put "_".
        positional: the arguments without a name, in order.
        named: the arguments with a name.
        path: the folder of a `saved:` call.
    """

    name: str
    positional: tuple[Value, ...] = ()
    named: tuple[tuple[str, Value], ...] = ()
    path: str = ""

    @property
    def is_word(self) -> bool:
        """Whether it is a name alone."""
        return not (self.positional or self.named or self.path)

    def __str__(self) -> str:
        """Write the call in its one canonical form; reading that gives the same call."""
        if self.path:
            plain = re.fullmatch(r"[^\s,()\"]+", self.path)
            return f"saved:{self.path}" if plain else f'saved:"{self.path}"'
        args = [_text(v) for v in self.positional] + [f"{k}={_text(v)}" for k, v in self.named]
        return f"{self.name}({', '.join(args)})" if args else self.name


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(text: str) -> Call:
    """Read one policy.

    >>> str(parse("epsilon( popularity,0.1 )")), str(parse("softmax(mf, temperature = .5)"))
    ('epsilon(popularity, 0.1)', 'softmax(mf, temperature=0.5)')

    Raises:
        BadInput: one sentence that says what was expected, and where.
    """
    return _Reader(text).whole()


class _Reader:
    """A cursor over the text; each method reads one rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> Call:
        if not self.text.strip():
            raise BadInput("a policy is empty; write a name, such as random or greedy(mf)")
        call = self.call(0)
        self.blank()
        if self.at < len(self.text):
            raise self.expected("the end")
        return call

    def call(self, depth: int) -> Call:
        self.blank()
        if depth > _DEEPEST:
            raise BadInput(f"policy {self.text[:40]}…: more than {_DEEPEST} levels of parentheses")
        if self.text.startswith("saved:", self.at):
            self.at += len("saved:")
            return Call("saved", path=self.folder())
        name = self.match(_NAME)
        if name is None:
            raise self.expected("a name")
        if not self.eat("("):
            return Call(_key(name))
        positional: list[Value] = []
        named: dict[str, Value] = {}
        if not self.eat(")"):
            while True:
                self.argument(positional, named, depth)
                if self.eat(")"):
                    break
                if not self.eat(","):
                    raise self.expected('"," or ")"')
        return Call(_key(name), tuple(positional), tuple(named.items()))

    def argument(
        self,
        positional: list[Value],
        named: dict[str, Value],
        depth: int,
    ) -> None:
        self.blank()
        start = self.at
        name = self.match(_NAME)
        if name is not None and self.eat("="):
            key = name.replace("-", "_")
            if key in named:
                raise BadInput(f"policy {self.text}: {key} is given twice")
            named[key] = self.value(depth)
            return
        self.at = start
        if named:
            raise BadInput(f"policy {self.text}: an argument without a name comes after one with a name")
        positional.append(self.value(depth))

    def value(self, depth: int) -> Value:
        self.blank()
        if self.eat("["):
            return self.listed()
        number = self.number()
        if number is not None:
            return number
        call = self.call(depth + 1)
        if call.is_word and call.name in ("true", "false"):
            return call.name == "true"
        return call

    def listed(self) -> tuple[float | int | bool | Call, ...]:
        found: list[float | int | bool | Call] = []
        while not self.eat("]"):
            if found and not self.eat(","):
                raise self.expected('"," or "]"')
            self.blank()
            number = self.number()
            word = self.match(_NAME) if number is None else None
            if number is None and word is None:
                raise self.expected("a number or a word")
            if number is not None:
                found.append(number)
            elif word is not None:
                found.append(
                    word.lower() == "true" if word.lower() in ("true", "false") else Call(_key(word))
                )
        return tuple(found)

    def number(self) -> float | int | None:
        number = self.match(_NUMBER)
        if number is None:
            return None
        return int(number) if re.fullmatch(r"[-+]?\d+", number) else float(number)

    def folder(self) -> str:
        if self.text.startswith('"', self.at):
            end = self.text.find('"', self.at + 1)
            if end < 0:
                raise BadInput(f"policy {self.text}: the quote at character {self.at + 1} is never closed")
            path, self.at = self.text[self.at + 1 : end], end + 1
        else:
            found = re.compile(r"[^,()\"]*").match(self.text, self.at)
            assert found is not None
            path, self.at = found.group().strip(), found.end()
        if not path:
            raise BadInput(
                f"policy {self.text}: saved: needs the folder of a saved ranker or agent, saved:FOLDER"
            )
        return path

    def match(self, pattern: "re.Pattern[str]") -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def eat(self, mark: str) -> bool:
        self.blank()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def blank(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def expected(self, what: str) -> BadInput:
        rest = self.text[self.at :]
        found = f'"{rest[0]}"' if rest else "the end"
        return BadInput(f"policy {self.text}: expected {what} at character {self.at + 1}, but found {found}")


def _key(name: str) -> str:
    return name.replace("_", "-").lower()
