"""The documentation is true: every code block runs, what is generated is up to date, every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from docs.generate import PAGE, commands_of
from docs.picture import FILE, LOOP, drawing
from frameworm import events
from tests.run_page import FENCE, Block, PageError, blocks_of, check_session, matches, run_page, shell

ROOT = Path(__file__).parent.parent
PLUGINS = ROOT / "docs" / "creating-plugins.md"  # has a test of its own, which reads it as its reader does
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(set((ROOT / "docs").glob("*.md")) - {PLUGINS})]
FOLDERS = ("", "docs/", "examples/**/", "frameworm_plugins/*/")
LINKED = [page for folder in FOLDERS for page in sorted(ROOT.glob(f"{folder}*.md"))]
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)")


def anchors_of(text: str) -> set[str]:
    """Return what a forge lets one link to in a page: its headings, as it writes them behind `#`."""
    anchors: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w -]", "", plain).lower().replace(" ", "-")
        anchors[f"{anchor}-{anchors[anchor]}" if anchor in anchors else anchor] = 0
        anchors[anchor] += 1
    return set(anchors)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("documentation", PAGES, ids=lambda path: path.name)
def test_every_block_runs(documentation: Path, tmp_path: Path) -> None:
    """A reader who follows the page from top to bottom, in an empty folder, gets what it says."""
    scripts = Path(sys.executable).parent
    # Shown output is compared as it is in a terminal's pipe: plain, wide enough not to be wrapped.
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200", "NO_COLOR": "1"}
    result = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("run_page.py"), documentation],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("documentation", PAGES, ids=lambda path: path.name)
def test_hardly_any_block_is_left_out(documentation: Path) -> None:
    """A block that is not run says why, and there are few."""
    blocks = list(blocks_of(documentation.read_text(encoding="utf-8")))
    assert sum(not block.runs for block in blocks) <= 2


def test_what_is_generated_is_up_to_date() -> None:
    """The reference has the commands, events and config keys that the program has; `make docs` writes them anew."""
    text = PAGE.read_text(encoding="utf-8")
    # In a process of its own: here are events and parts that other tests have brought along.
    made = [sys.executable, "-c", "from docs.generate import *; sys.stdout.write(page(PAGE.read_text('utf-8')))"]
    assert subprocess.run(made, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout == text


def test_the_picture_is_up_to_date() -> None:
    """It is what `make docs` draws, and its events are in the loop in that order."""
    assert FILE.read_text(encoding="utf-8") == drawing()
    drawn = [line.strip() for line in LOOP.splitlines()]
    loop = iter([line.strip() for line in (events.__doc__ or "").splitlines()])
    assert [line for line in drawn if line not in loop] == []


def test_every_command_is_found() -> None:
    """What is put below a group is in the reference without being listed anywhere, unless it is hidden."""
    run, hidden = click.Command("run"), click.Command("hidden", hidden=True)
    below = click.Group("below", commands={"run": run, "hidden": hidden})
    main = click.Group(commands={"run": run, "below": below})
    assert list(commands_of(main)) == [(), ("below",), ("below", "run"), ("run",)]


@pytest.mark.parametrize("documentation", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(documentation: Path) -> None:
    """A link names a file that is there, or a web page, and behind `#` one of its headings."""
    broken = []
    for target, anchor in LINK.findall(FENCE.sub("", documentation.read_text(encoding="utf-8"))):
        file = documentation.parent / target if target else documentation
        if not file.exists() or (anchor and anchor not in anchors_of(file.read_text(encoding="utf-8"))):
            broken.append(f"{target}#{anchor}" if anchor else target)
    assert not broken


def test_the_contents_are_complete() -> None:
    """The list at the top of the how-to has every task."""
    text = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
    contents, _, tasks = text.partition("\n## ")
    assert anchors_of(f"## {tasks}") == {anchor for _, anchor in LINK.findall(contents)}


def test_anchors_are_those_of_a_forge() -> None:
    """A heading's anchor is what a forge makes of it: what is no letter goes, and a second one gets a number."""
    text = "# A page, *once*: `a_b`!\n\n```bash\n# no heading\n```\n\n## 2 x [this](there.md)\n\n## 2 x this\n"
    assert anchors_of(text) == {"a-page-once-a_b", "2-x-this", "2-x-this-1"}


def test_every_page_is_linked_in_the_readme() -> None:
    """Whoever begins with the README finds all of the documentation."""
    found = {target for target, _ in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= found


class TestTheRunner:
    """A page that is wrong fails, with the line that is."""

    def test_python_shares_a_namespace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A later block sees what an earlier one defined, and files that were written."""
        monkeypatch.chdir(tmp_path)
        yaml = "```yaml\n# file: a/b.yaml\nk: v\n```\n"
        text = f"```python\nimport os\n```\n{yaml}```python\nassert os.listdir('a') == ['b.yaml']\n```\n"
        assert run_page(_page(tmp_path, text)) == 3

    def test_an_error_has_the_pages_line(self, tmp_path: Path) -> None:
        """Python that fails says where in the page."""
        with pytest.raises(ZeroDivisionError) as raised:
            run_page(_page(tmp_path, "# A page\n\n```python\nx = 1\nx / 0\n```\n"))
        assert raised.traceback[-1].lineno == 4  # counted from 0

    def test_a_command_that_fails_fails_the_page(self, tmp_path: Path) -> None:
        """Any line of a bash block may."""
        with pytest.raises(PageError, match=r"page.md:2: exit status 1"):
            run_page(_page(tmp_path, "```bash\nfalse\ntrue\n```\n"))

    def test_what_is_not_run_is_not_run(self, tmp_path: Path) -> None:
        """A comment with the reason in front of a block leaves it out; other languages are not run at all."""
        text = "<!-- not run: it fails -->\n```bash\nfalse\n```\n```text\nfalse\n```\n"
        assert run_page(_page(tmp_path, text)) == 0
        assert [block.runs for block in blocks_of(text)] == [False, True]
        assert next(blocks_of(text)) == Block("bash", "false\n", 3, runs=False)

    def test_yaml_without_a_file_is_refused(self, tmp_path: Path) -> None:
        """A config that nobody reads would not be checked."""
        with pytest.raises(PageError, match="does nothing"):
            run_page(_page(tmp_path, "```yaml\nk: v\n```\n"))

    @pytest.mark.parametrize(
        ("shown", "output"),
        [
            ("epoch 1/3  loss 0.67  1,077 samples/s", "epoch  2/3  loss 1.5   23 samples/s"),
            ("in runs/digits-20261122-221535-3b199025", "in runs/digits-20250101-000000-ffffffff"),
            ("one\n...\nfour", "one\ntwo\nthree\nfour"),
            ("one\n...", "one"),
            ("one", "\x1b[1mone\x1b[0m\n\n"),
        ],
    )
    def test_loose_matches(self, shown: str, output: str) -> None:
        """Numbers, ids, colours and white space may differ; three dots stand for any lines."""
        assert matches(shown, output)

    @pytest.mark.parametrize(
        ("shown", "output"),
        [("loss 0.5", "loss none"), ("one", "one\ntwo"), ("one\ntwo", "one"), ("loss 0.5", "val_loss 0.5")],
    )
    def test_other_output_does_not_match(self, shown: str, output: str) -> None:
        """Words and lines must be those that are shown."""
        assert not matches(shown, output)

    def test_a_session_is_compared(self) -> None:
        """What is shown below a command is its output, and nothing else."""
        check_session("$ echo one\none\n$ echo 22\n1\n")
        with pytest.raises(PageError, match="but gave"):
            check_session("$ echo one\ntwo\n")

    def test_a_shell_has_no_input(self) -> None:
        """A command that asks gets no answer, and the page does not hang."""
        assert shell("cat") == ""


def _page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page
