"""Kafka's jars: fetched once from Maven Central by jgo, and only ever used if every hash is ours.

In: kafka-jars.sha256, committed (`sha256sum -c` format, paths as in a Maven repository).
Out: the class path. Promise: a jar that is not on the list byte for byte never reaches a JVM.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath

from turnout_cli.embedded.process import EmbeddedError

KAFKA_VERSION = "4.3.1"
JAR_LIST = Path(__file__).with_name("kafka-jars.sha256")
MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
_ATTEMPTS = 3
_PARALLEL = 6

Progress = Callable[[int, int], None]
"""Called with (jars fetched, jars in all)."""


def user_cache() -> Path:
    """The cache of this user: XDG_CACHE_HOME where set, else ~/.cache (Windows: LOCALAPPDATA)."""
    base = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return (Path(base) if base else Path.home() / ".cache") / "turnout"


def maven_repository() -> str:
    """Maven Central, or a mirror of it: TURNOUT_MAVEN_REPOSITORY. The hashes are the same for both."""
    return os.environ.get("TURNOUT_MAVEN_REPOSITORY") or MAVEN_CENTRAL


def read_list(jar_list: Path = JAR_LIST) -> dict[str, str]:
    """Path of each jar → its sha256."""
    pairs = (line.split(maxsplit=1) for line in jar_list.read_text().splitlines() if line.strip())
    return {path.strip(): digest for digest, path in pairs}


def class_path(
    cache: Path | None = None, *, jar_list: Path = JAR_LIST, progress: Progress | None = None
) -> list[Path]:
    """All jars, verified; fetched first where the cache does not hold exactly the listed set."""
    wanted = read_list(jar_list)
    folder = (cache or user_cache()) / f"kafka-{KAFKA_VERSION}"
    if folder.exists() and wrong_files(folder, wanted):
        shutil.rmtree(folder)
    if not folder.exists():
        _fetch_set(folder, wanted, progress or (lambda _done, _total: None))
    return [folder / path for path in wanted]


def wrong_files(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Listed files that are missing or differ, and jars that are not listed."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jar")}
    differing = [path for path in wanted if path not in present or _sha256(folder / path) != wanted[path]]
    return differing + sorted(present - wanted.keys())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_set(folder: Path, wanted: dict[str, str], progress: Progress) -> None:
    with _draft_beside(folder) as draft:
        _download(draft, list(wanted), progress)
        if wrong := wrong_files(draft, wanted):
            raise EmbeddedError(
                f"Kafka's jars from {maven_repository()} differ from {JAR_LIST.name}: {', '.join(wrong)}. "
                "Nothing was kept. A proxy may have changed them: check the network, then try again"
            )
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # else another start was quicker, and its set is the same
                raise


@contextlib.contextmanager
def _draft_beside(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".kafka-"))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _download(draft: Path, paths: list[str], progress: Progress) -> None:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        futures = [pool.submit(_fetch, draft, path) for path in paths]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                progress(done, len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch(draft: Path, path: str) -> None:
    from jgo.maven import MavenContext  # slow to import, and needed once per machine

    *group, artifact, version, _file = PurePosixPath(path).parts
    for attempt in range(1, _ATTEMPTS + 1):
        maven = MavenContext(repo_cache=draft, remote_repos={"central": maven_repository()}, timeout=30)
        try:
            maven.project(".".join(group), artifact).at_version(version).artifact().resolve()
            return
        except Exception as error:  # jgo passes on whatever requests raised
            (draft / path).unlink(missing_ok=True)  # jgo takes half a file for a whole one
            if attempt == _ATTEMPTS:
                raise EmbeddedError(
                    f"{path} could not be fetched from {maven_repository()} ({error}); the first start needs the "
                    "network; set HTTPS_PROXY for a proxy, TURNOUT_MAVEN_REPOSITORY for a mirror"
                ) from error
