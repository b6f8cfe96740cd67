"""`--config FILE.yaml`: the file's values become the defaults of a command's options."""

import types
from collections.abc import Mapping
from dataclasses import MISSING as UNSET
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from simlab.errors import BadInput, nearest

Config = TypeVar("Config")


def defaults(kind: type[Config], command: str, file: Path) -> Config:
    """Return a command's options with the values of a YAML file as defaults.

    Args:
        kind: the frozen dataclass of the command's options.
        command: the command's name; the file may state it, as a run's config.yaml does.
        file: a mapping of option names, written with "-" or "_".

    Raises:
        BadInput: naming the file, the key and the value that cannot be.
    """
    values = _read(file)
    stated = values.pop("command", command)
    if stated != command:
        raise BadInput(f"{file} is for simlab {stated}, not simlab {command}")
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names or name == "config":
            raise BadInput(f"{file}: simlab {command} has no option {key}{nearest(name, names)}")
        if isinstance(value, Mapping):  # set: {boredom: 0.0} is set: [boredom=0.0]
            value = [f"{k}={v}" for k, v in value.items()]
        settings[name] = fit(value, hints[name], f"{file}: {key}")
    return _partial(kind, settings)


def _partial(kind: type[Config], settings: dict[str, Any]) -> Config:
    """Return an instance in which an option that has no default yet, such as the log to read, is missing.

    It never leaves the command-line reader, which fills the gap or says what is missing, so the
    constructor's checks wait until then.
    """
    from tyro import MISSING

    made = object.__new__(kind)
    for f in fields(kind):  # type: ignore[arg-type]
        default = f.default_factory() if f.default_factory is not UNSET else f.default
        value = settings.get(f.name, MISSING if default is UNSET else default)
        object.__setattr__(made, f.name, value)
    return made


def fit(value: Any, hint: Any, where: str) -> Any:
    """Return a value read from text as the type that a field wants.

    >>> fit(3, float, "users"), fit([1, 2], tuple[float, ...], "examination"), fit(None, int | None, "steps")
    (3.0, (1.0, 2.0), None)

    Args:
        value: what a YAML reader made of the text.
        hint: the field's type.
        where: what to call the value in a refusal.

    Raises:
        BadInput: if the value is not of that type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for option in args:
            if option is not type(None):
                try:
                    return fit(value, option, where)
                except BadInput:
                    continue
        raise _wrong(where, value, " or ".join(_words(a) for a in args))
    if origin is tuple:
        rows = value if isinstance(value, list | tuple) else [value]
        return tuple(fit(v, args[0], where) for v in rows)
    if origin is Literal:
        if value in args:
            return value
        raise _wrong(where, value, " or ".join(map(str, args)))
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise _wrong(where, value, _words(hint))


def _read(file: Path) -> dict[Any, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInput(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadInput(f"{file} holds {type(found).__name__}, not option: value lines")
    return found


def _wrong(where: str, value: Any, words: str) -> BadInput:
    return BadInput(f"{where} is {value!r}, but it is {words}")


def _words(hint: Any) -> str:
    if hint is type(None):
        return "null"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(
        hint, str(hint)
    )
