"""Only jars that are on the committed list, byte for byte, reach a JVM."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from turnout_cli.embedded import kafka_jars
from turnout_cli.embedded.process import EmbeddedError

JARS = {
    "org/example/first/1.0/first-1.0.jar": b"first jar",
    "org/example/second/2.0/second-2.0.jar": b"second jar",
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository of our own, in place of Maven Central."""
    folder = tmp_path / "repository"
    for path, content in JARS.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("TURNOUT_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


@pytest.fixture
def jar_list(tmp_path: Path) -> Path:
    file = tmp_path / "jars.sha256"
    lines = (f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in JARS.items())
    file.write_text("".join(lines))
    return file


def test_all_listed_jars_are_fetched_once(repository: Path, jar_list: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    cache = tmp_path / "cache"

    first = kafka_jars.class_path(cache, jar_list=jar_list, progress=lambda *step: steps.append(step))
    (repository / "org").rename(repository / "gone")
    second = kafka_jars.class_path(cache, jar_list=jar_list)

    assert [jar.read_bytes() for jar in first] == list(JARS.values())
    assert second == first
    assert steps == [(1, 2), (2, 2)]


def test_a_jar_with_another_hash_is_refused_and_nothing_is_kept(
    repository: Path, jar_list: Path, tmp_path: Path
) -> None:
    (repository / "org/example/second/2.0/second-2.0.jar").write_bytes(b"something else")
    cache = tmp_path / "cache"

    with pytest.raises(EmbeddedError, match=r"differ from .*second-2\.0\.jar"):
        kafka_jars.class_path(cache, jar_list=jar_list)

    assert list(cache.iterdir()) == []


# jgo leaves the connection of a 404 to the garbage collector, which must not blame a later test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_jar_that_cannot_be_fetched_is_named_and_nothing_is_kept(
    repository: Path, jar_list: Path, tmp_path: Path
) -> None:
    (repository / "org/example/first/1.0/first-1.0.jar").unlink()
    cache = tmp_path / "cache"

    with pytest.raises(EmbeddedError, match=r"first-1\.0\.jar could not be fetched"):
        kafka_jars.class_path(cache, jar_list=jar_list)
    gc.collect()

    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_a_cache_that_was_tampered_with_is_fetched_again(
    damage: str, repository: Path, jar_list: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    jars = kafka_jars.class_path(cache, jar_list=jar_list)
    stranger = jars[0].with_name("stranger.jar")
    match damage:
        case "changed":
            jars[0].write_bytes(b"evil")
        case "missing":
            jars[0].unlink()
        case "added":
            stranger.write_bytes(b"evil")

    again = kafka_jars.class_path(cache, jar_list=jar_list)

    assert [jar.read_bytes() for jar in again] == list(JARS.values())
    assert not stranger.exists()


def test_the_committed_list_is_kafka_and_well_formed() -> None:
    listed = kafka_jars.read_list()

    assert (
        f"org/apache/kafka/kafka_2.13/{kafka_jars.KAFKA_VERSION}/kafka_2.13-{kafka_jars.KAFKA_VERSION}.jar"
        in listed
    )
    assert all(len(digest) == 64 for digest in listed.values())
    assert list(listed) == sorted(listed)
