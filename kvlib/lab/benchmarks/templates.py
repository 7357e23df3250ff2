"""Prompts of a benchmark, read from the user's own clone of its repository: nothing there is imported or run.

A text is a constant in the code, or an expression that puts one together, such as `"How often did " + name + "?"` or an
f-string. What is read is a `Template`: its texts, and in between the source of the expressions, whose values are given later.
"""

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Template:
    """A text with gaps. parts: (text, "") or ("", source of an expression)."""

    parts: tuple[tuple[str, str], ...]

    def fill(self, **values: str) -> str:
        """The text with the value of every expression: `values` by the name of the variable in it, or by its key or index,
        such as `time_stamp` for `question["time_stamp"]` and `options_0` for `options[0]`. Raises KeyError for one not given.
        """
        return "".join(text or values[_name(source)] for text, source in self.parts if text or source)

    def format(self, *values: str) -> str:
        """The text, which has no expressions, with its `{}` replaced in order, as `str.format` does. Braces in the values stay
        as they are. Raises ValueError for another number of them than of values."""
        text = self.fill()
        if text.count("{}") != len(values):
            raise ValueError(
                f"the prompt {text[:60]!r} has {text.count('{}')} places for {len(values)} texts: it has another form"
            )
        return text.format(*values)


class Clone:
    """A clone of a benchmark's `repository` (owner/name) in `folder`. Raises FileNotFoundError where it is none."""

    def __init__(self, folder: Path, repository: str):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: give --repo a clone of https://github.com/{repository}")
        self.folder, self.repository = folder, repository
        self.files: dict[str, str] = {}

    def templates(self, file: str, name: str) -> list[Template]:
        """All texts that `file` assigns or adds to a variable `name`, in order.

        Raises FileNotFoundError for a missing file, ValueError for one that is not Python or has no such text.
        """
        path = self.folder / file
        if not path.is_file():
            raise FileNotFoundError(f"no {file} in {self.folder}: give --repo a clone of https://github.com/{self.repository}")
        source = path.read_bytes()
        self.files[file] = hashlib.sha256(source).hexdigest()
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path} is not valid Python ({error}): check out the clone again") from error
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AugAssign) and _assigns(node, name)]
        parts = [_parts(node.value) for node in sorted(nodes, key=lambda node: node.lineno)]
        found = [Template(tuple(each)) for each in parts if each is not None]
        if not found:
            raise ValueError(
                f"{path} has no text {name}: give --repo a clone of https://github.com/{self.repository} that has it"
            )
        return found

    def template(self, file: str, name: str, *gaps: str) -> Template:
        """The last of `templates` whose expressions have the names `gaps`; raises ValueError where there is none."""
        for found in reversed(self.templates(file, name)):
            if {_name(source) for _, source in found.parts if source} == set(gaps):
                return found
        raise ValueError(f"{self.folder / file} has no text {name} with {', '.join(gaps)}: the prompts have another form")


def _assigns(node: ast.Assign | ast.AugAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _parts(node: ast.expr) -> list[tuple[str, str]] | None:
    """The parts of a text, None for an expression that is none."""
    if isinstance(node, ast.Constant):
        return [(node.value, "")] if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return [(part.value, "") if isinstance(part, ast.Constant) else ("", ast.unparse(part.value)) for part in node.values]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_parts(side) or [("", ast.unparse(side))] for side in (node.left, node.right)]
        return sum(sides, []) if any(text for side in sides for text, _ in side) else None
    return None


def _name(source: str) -> str:
    """The name by which the value of an expression is given."""
    node = ast.parse(source, mode="eval").body
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key = node.slice.value
        return key if isinstance(key, str) else f"{ast.unparse(node.value)}_{key}"
    return ast.unparse(node)
