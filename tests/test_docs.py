"""What the pages for people say is so: commands parse, calls fit, links lead, tables agree."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import reloc
from reloc.commands import COMMANDS, get_command
from reloc.commands.parsing import parse_command
from reloc.methods import METHODS, get_method

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
README = ROOT / "README.md"
# What stands for something of the reader's, in command lines that show the form.
PLACEHOLDERS = {"METHOD": "thumbnail", "NAME": "thumbnail", "METHOD:PRESET": "sift:orb"}
SHELLS = {"", "bash", "sh", "shell", "console"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what the fence says.
        text: between the fences.
        place: page and line, for the name of the test.
    """

    language: str
    text: str
    place: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", content, re.MULTILINE | re.DOTALL):
            line = content.count("\n", 0, match.start()) + 1
            place = f"{page.relative_to(ROOT)}:{line}"
            found.append(Block(match[1], match[2], place))
    return [block for block in found if not languages or block.language in languages]


def command_lines() -> Iterator[tuple[str, str]]:
    """Place and words of the commands in shell blocks, and of `reloc ...` in running text."""
    for block in blocks(*SHELLS):
        for line in block.text.replace("\\\n", " ").splitlines():
            if re.match(r"(\$ )?([A-Z_]+=\S+ )*(reloc|make) ", line):
                yield block.place, line.removeprefix("$ ")
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for code in re.findall(r"`(reloc\s[^`]+)`", prose):
            words = code.split()
            # One word more only names the command.
            yield str(page.relative_to(ROOT)), " ".join([*words, "--help"][: max(3, len(words))])


def simple_commands(line: str) -> list[list[str]]:
    """The commands of a shell line, without comments, assignments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;<>"):
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    return [command for command in commands if command]


def reloc_commands() -> list[Any]:
    found = {}
    for place, line in command_lines():
        # `reloc map METHOD SCENE|IMAGE...` shows a form, and is no command.
        if not re.search(r"\[|\.\.\.|\w\|\w|…", line):
            for words in simple_commands(line):
                if words[0] == "reloc":
                    found[" ".join(words)] = pytest.param(words[1:], id=f"{place} {words[1:]}")
    return list(found.values())


@pytest.mark.parametrize("words", reloc_commands())
def test_command_lines_parse(words: list[str]) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in words]
    try:
        parse_command(words[0], get_command(words[0]), words[1:])
    except SystemExit as end:
        # --help ends the process, in peace.
        assert end.code == 0


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = {
        target
        for _, line in command_lines()
        for words in simple_commands(line)
        if words[0] == "make"
        for target in words[1:]
    }
    assert {"demo", "test"} <= named
    assert named <= targets


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.place)
def test_python_blocks_call_what_there_is(block: Block) -> None:
    """Imports work, and calls of what was imported have arguments that fit the signature."""
    tree = ast.parse(block.text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names: dict[str, Any] = {**vars(builtins), "reloc": reloc}
    exec(compile(ast.Module(imports, []), block.place, "exec"), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (found := dotted(node)):
            assert resolved(found, names) is not UNKNOWN, f"{block.place}: {found}"
        if isinstance(node, ast.Call) and (found := dotted(node.func)):
            function = resolved(found, names)
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            if callable(function) and not starred and function not in vars(builtins).values():
                keywords = {word.arg: None for word in node.keywords if word.arg}
                inspect.signature(function).bind(*node.args, **keywords)


UNKNOWN = object()


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression; "" where it is another one."""
    text = ast.unparse(node)
    return text if re.fullmatch(r"\w+(\.\w+)*", text) else ""


def resolved(path: str, names: dict[str, Any]) -> Any:
    """What a dotted name means; None where its first part is a variable of the block's own."""
    first, *rest = path.split(".")
    if first not in names:
        return None
    value = names[first]
    for part in rest:
        value = getattr(value, part, UNKNOWN)
        if value is UNKNOWN:
            return UNKNOWN
    return value


@pytest.mark.parametrize("block", blocks("json", "toml"), ids=lambda block: block.place)
def test_data_blocks_parse(block: Block) -> None:
    {"json": json.loads, "toml": tomllib.loads}[block.language](block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", content, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert linked.is_relative_to(ROOT), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as they are made where such pages are shown."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_has_the_table_of_methods() -> None:
    """`| name | family | summary | ...`, a line for each row, in the table's order."""
    lines = re.findall(r"^\|(.+)\|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [[cell.strip().strip("`") for cell in line.split("|")] for line in lines]
    rows = [get_method(name) for name in METHODS]
    families = {row.family for row in rows}
    listed = [line[:3] for line in cells if line[0] in METHODS and line[1] in families]
    assert listed == [[row.name, row.family, row.summary] for row in rows]


def test_the_readme_names_every_command_and_the_five_verbs() -> None:
    content = README.read_text(encoding="utf-8")
    for command in COMMANDS:
        assert re.search(rf"(reloc|make) {command}\b", content), command
    for verb in reloc.__all__:
        assert f"reloc.{verb}(" in content, verb


@pytest.mark.parametrize(
    "path",
    [*PAGES, *sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_path_of_somebodys_machine(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users)/\w+", content)
