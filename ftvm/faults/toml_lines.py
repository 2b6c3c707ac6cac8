"""In which line of a TOML document something stands: tomllib does not tell."""

import re
from collections.abc import Iterator

Path = tuple[str | int, ...]
"""Keys, and indices in arrays of tables: ``("fault", 0, "target")``."""

_HEADER = re.compile(r"(?P<brackets>\[\[?)\s*(?P<key>[^\[\]]+?)\s*\]")
_KEY = re.compile(
    r"(?P<key>(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_PART = re.compile(r"[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'")
_TOKEN = re.compile(r"\"\"\"|'''|\"(?:\\.|[^\"\\])*\"|'[^']*'|#|[\[\]{}]")


class TomlLines:
    """The lines of the valid TOML document ``text``; those inside inline tables are taken for where these begin."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        counts: dict[Path, int] = {}
        table: Path = ()
        for number, line in _statements(text):
            if header := _HEADER.match(line):
                table = _indexed(_parts(header["key"]), counts, new=header["brackets"] == "[[")
                for end in range(1, len(table) + 1):
                    self._lines.setdefault(table[:end], number)
            elif key := _KEY.match(line):
                path = (*table, *_parts(key["key"]))
                for end in range(len(table) + 1, len(path) + 1):
                    self._lines.setdefault(path[:end], number)

    def of(self, *path: str | int) -> int | None:
        """The line of what stands there, or of the nearest thing around it, from 1; None when there is none."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None


def _parts(key: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(key))


def _indexed(key: Path, counts: dict[Path, int], new: bool) -> Path:
    """The path of a table, with the indices of the arrays of tables that it is in; ``new``: it is another element."""
    path: Path = ()
    for place, part in enumerate(key):
        path = (*path, part)
        if new and place == len(key) - 1:
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = (*path, counts[path] - 1)
    return path


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of each line at which a statement begins: not those inside of strings and arrays."""
    inside: str | None = None  # the quotes of an open string of several lines
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.lstrip()
        if inside is None and depth == 0 and stripped and not stripped.startswith("#"):
            yield number, stripped
        at = 0
        while at < len(line):
            if inside is not None:
                end = line.find(inside, at)
                if end < 0:
                    break
                escaped = inside == '"""' and (len(line[:end]) - len(line[:end].rstrip("\\"))) % 2
                inside, at = (inside, end + 1) if escaped else (None, end + 3)
                continue
            token = _TOKEN.search(line, at)
            if token is None or token[0] == "#":
                break
            at = token.end()
            if token[0] in ('"""', "'''"):
                inside = token[0]
            elif token[0] in ("[", "{"):
                depth += 1
            elif token[0] in ("]", "}"):
                depth -= 1
