"""`simlab list`: the parts that are there, read from their files without running them."""

import ast
import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simlab.errors import BadInput, nearest
from simlab.parts import FOLDERS, names

if TYPE_CHECKING:
    from rich.console import Console

    from simlab.lab.options import ListConfig

KINDS = {
    "worlds": "world",
    "click-models": "click model",
    "rankers": "ranker",
    "policies": "policy",
    "agents": "agent",
    "estimators": "estimator",
    "slate-estimators": "slate estimator",
    "trajectory-estimators": "trajectory estimator",
    "uplift-learners": "uplift learner",
    "datasets": "dataset",
    "trials": "trial",
}
"""What the command line calls each kind of part."""

MORE = {
    "policy": {
        "oracle": "the truly most attractive items now; it reads the world's state",
        "far-sighted": "an oracle that thinks of later steps too; each world has its own",
        "learned(RANKER)": "a ranker trained on clicks made in the world; debias=ips corrects position bias",
        "AGENT(SETTING=VALUE)": "an agent of simlab list agents, trained in the world; users= and steps= say "
        "how long, and greedy(AGENT) shows its likeliest slate",
        "saved:FOLDER": "the best items of a ranker saved in a folder, or an agent saved in one",
    }
}
"""Words of the command line that are not files of their kind's folder."""


def run_list(config: "ListConfig") -> int:
    """Print tables of parts, or the page of one world."""
    from rich.console import Console

    console = Console(highlight=False)
    word = config.kind.replace("_", "-")
    if word == "all" or word in KINDS:
        for title, kind in KINDS.items():
            if word in ("all", title):
                _table(console, title, parts(kind))
        if word == "worlds":
            _ids(console)
        console.print("simlab list WORLD, such as simlab list feed, shows a world's page and its settings.")
        return 0
    for title, kind in KINDS.items():
        if kind != "world" and word in parts(kind):
            _table(console, title, {word: parts(kind)[word]})
            return 0
    from envs.registry import PREFIX, find, ids, known

    if config.kind not in known():
        found = [*KINDS, "all", *(part for kind in KINDS.values() for part in parts(kind))]
        found += [key.removeprefix(PREFIX) for key in ids()]
        close = nearest(config.kind, found)
        hint = close if "did you mean" in close else "; simlab list shows what there is"
        raise BadInput(f"there is nothing named {config.kind}{hint}")
    key = find(config.kind)
    _page(console, key, ids()[key])
    return 0


def _ids(console: "Console") -> None:
    """Print the registered ids of each world, the newest last."""
    import rich.box
    from rich.table import Table
    from rich.text import Text

    from envs.registry import PREFIX, ids

    table = Table(
        "world",
        "ids, the newest last",
        box=rich.box.SIMPLE,
        title="ids",
        title_justify="left",
        pad_edge=False,
    )
    for name in names("world"):
        mine = [key for key, kind in ids().items() if kind.__module__.endswith(f".{name}")]
        table.add_row(Text(name.replace("_", "-")), Text(", ".join(k.removeprefix(PREFIX) for k in mine)))
    console.print(table)


def _page(console: "Console", key: str, kind: Any) -> None:
    """Print a world's docstring and its settings, as `--set` takes them, with the values of this id."""
    import rich.box
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    console.print(Text(key, style="bold"))
    console.print(Markdown(inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:")[0]))
    words: dict[str, str] = {}
    for base in reversed(kind.Spec.__mro__):
        words |= attribute_docs(base.__doc__ or "")
    table = Table(
        "setting", "value", "what it does", box=rich.box.SIMPLE, title_justify="left", pad_edge=False
    )
    table.title = f"settings of {key}: --set NAME=VALUE"
    for f in fields(kind.Spec):
        value = kind.ids[key].get(f.name, f.default)
        table.add_row(Text(f.name), Text(str(value)), Text(words.get(f.name, "")))
    console.print(table)


def parts(kind: str) -> dict[str, str]:
    """Return the first sentence of each part's description, by its name on the command line."""
    found = {n.replace("_", "-"): about(file_of(kind, n)) for n in names(kind)}
    return found | MORE.get(kind, {})


def file_of(kind: str, name: str) -> Path:
    """Return the file of a part, without importing it."""
    for folder in FOLDERS[kind]:
        package = importlib.util.find_spec(folder)
        assert package is not None
        assert package.submodule_search_locations is not None
        for place in package.submodule_search_locations:
            for file in (Path(place) / f"{name}.py", Path(place) / name / "__init__.py"):
                if file.is_file():
                    return file
    raise BadInput(f"the file of {kind} {name} is missing")


def about(file: Path) -> str:
    """Return the first sentence that a file says of its part: of its one public class, else of the file.

    Where the part is a learner behind the face of an agent, it is the learner that says what it does.
    """
    tree = ast.parse(file.read_text("utf-8"))
    classes = {c.name: c for c in tree.body if isinstance(c, ast.ClassDef) and not c.name.startswith("_")}
    chosen = [
        node.value.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Name)
        and any(isinstance(t, ast.Name) and t.id == "PART" for t in node.targets)
    ]
    name = chosen[0] if chosen else next(iter(classes)) if len(classes) == 1 else ""
    name = _algorithm(classes[name], classes) if name in classes else name
    text = (ast.get_docstring(classes[name]) if name in classes else None) or ast.get_docstring(tree) or ""
    return first_sentence(text)


def _algorithm(kind: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> str:
    """Return the class of the same file that a class names as its `algorithm`, else its own name."""
    for node in kind.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        named = any(isinstance(t, ast.Name) and t.id == "algorithm" for t in targets)
        if named and isinstance(value, ast.Name) and value.id in classes:
            return value.id
    return kind.name


def first_sentence(text: str) -> str:
    """Return the text up to its first full stop, on one line.

    >>> first_sentence("Ranks by 1.5 x clicks.  More.")
    'Ranks by 1.5 x clicks'
    """
    line = " ".join(text.split("\n\n")[0].split())
    return re.split(r"\.(?:\s|$)", line, maxsplit=1)[0]


def _table(console: "Console", title: str, found: dict[str, str]) -> None:
    import rich.box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=rich.box.SIMPLE, show_header=False, title=title, title_justify="left", pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, words in found.items():
        table.add_row(Text(name), Text(words))
    if not found:
        table.add_row(Text("none"), Text(""))
    console.print(table)


def attribute_docs(docstring: str) -> dict[str, str]:
    r"""Return what a docstring's "Attributes:" says of each.

    >>> attribute_docs("X.\n\nAttributes:\n    a: one\n        more.\n    b: two.")
    {'a': 'one more', 'b': 'two'}
    """
    _, _, body = docstring.partition("Attributes:")
    found: dict[str, str] = {}
    name, margin = "", -1
    for line in body.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        margin = indent if margin < 0 else margin
        head = re.match(r"\s*(\w+): (.*)", line)
        if indent < margin:
            break
        if indent == margin and head:
            name = head[1]
            found[name] = head[2].strip()
        elif name:
            found[name] += " " + line.strip()
    return {k: v.rstrip(".") for k, v in found.items()}
