"""Promise: what the documents point to is there, and each guarantee names the tests that fail without it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("contracts", "docs", "tests", "services", "libs", "deploy", "bench")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md"))]
)
NAMED = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]+)`")
PROMISES = [str(number) for number in range(1, 10)]


def heading_anchors(text: str) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    if document.name == "0000-template.md":
        return
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if re.match(r"https?:|mailto:", link):
            continue
        if not target.exists() or (anchor and anchor not in heading_anchors(target.read_text())):
            dead.append(link)

    assert dead == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    missing = [name for name in NAMED.findall(document.read_text()) if not list(ROOT.glob(name.rstrip("/")))]

    assert missing == []


@pytest.mark.parametrize("number", PROMISES)
def test_every_guarantee_names_the_tests_that_fail_without_it(number: str) -> None:
    text = (ROOT / "docs/DELIVERY_GUARANTEES.md").read_text()
    section = re.search(rf"^## {number}\. .*?(?=^## )", text, re.MULTILINE | re.DOTALL)

    assert section is not None
    assert re.search(r"`tests/(unit|contract|integration|resilience|e2e)/test_\w+\.py`", section[0])


def test_the_front_page_lists_the_same_guarantees() -> None:
    listed = re.search(r"## What it promises\n+(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)

    assert listed is not None
    assert re.findall(r"^(\d)\. ", listed[1], re.MULTILINE) == PROMISES
