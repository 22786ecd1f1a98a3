"""The repository against a model of plain dicts: two databases, one clock, one line of ids, equal in all."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.db.engine import make_engine
from app.domains.repository.drivers.snapshots import TABLES
from app.library import RepositoryContext, RepositoryError, open_repository
from app.library_face.repository import SpineRepository
from tests.factories.databases import Databases
from tests.factories.library import CountingIds, SteppingClock

EXAMPLES, STEPS = 28, 72
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h", "é", "e\u0301", "A", "B", " padded"])
CONTENTS = st.sampled_from([None, "", "red fish", "blue fish", b"\xff\x00", "red bird"])
METADATA = st.sampled_from(
    [{}, {"k": 1}, {"k": 1.0}, {"k": True}, {"k": [1, None], "z": -0.0}, {"k": 10**40}]
)
TYPES = st.sampled_from(["cites", "derived_from"])
LAST = 11
PICK = st.integers(0, LAST)
HEAD = sa.text("SELECT last_seq, last_hash FROM repository_state WHERE tenant_id = :t")
# What the machine writes, row by row: the lines of a snapshot are made of these and of nothing else.
KINDS = ("collection", "blob", "artifact", "revision", "relationship", "change")
ROWS = [sa.select(TABLES[kind]).where(TABLES[kind].c.tenant_id == sa.bindparam("t")) for kind in KINDS]
# What a run must have met, or it has shown little.
MET = {
    "done", "ALREADY_DELETED", "ARTIFACT_HAS_RELATIONSHIPS", "ARTIFACT_NOT_FOUND", "COLLECTION_NOT_EMPTY",
    "COLLECTION_NOT_FOUND", "DUPLICATE_ID", "DUPLICATE_NAME", "DUPLICATE_RELATIONSHIP",
    "ENDPOINT_NOT_FOUND", "GONE", "INVALID_NAME", "NOT_DELETED", "REFERENCE_NOT_FOUND",
    "RELATIONSHIP_CYCLE", "SELF_RELATIONSHIP", "TAKEN_BACK", "VERSION_MISMATCH",
}  # fmt: skip
ACYCLIC = ("derived_from", "supersedes", "part_of")


class Refused(Exception):
    """The model refuses with a code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def key_of(name: str) -> str:
    """Return the key of a name: here, the one pair of names that differ in form alone."""
    return "é" if name == "e\u0301" else name


def check_name(name: str) -> None:
    """Refuse the two names of the line that are none."""
    if not name or name != name.strip():
        raise Refused("INVALID_NAME")


@dataclass
class Model:
    """What a repository holds, as plain values."""

    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: int = 0

    def live(self, kind: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return what is not deleted."""
        return {name: row for name, row in kind.items() if not row["deleted"]}

    def require_collection(self, collection_id: str) -> None:
        """Refuse a collection that is not live; `default` is made when it is needed first."""
        if collection_id == "default" and "default" not in self.collections:
            return
        row = self.collections.get(collection_id)
        if row is None or row["deleted"]:
            raise Refused("REFERENCE_NOT_FOUND")

    def require_free(self, collection_id: str, name: str, but: str | None = None) -> None:
        """Refuse a name that another live artifact of the collection bears."""
        for identifier, row in self.live(self.artifacts).items():
            place = (row["collection"], key_of(row["name"]))
            if identifier != but and place == (collection_id, key_of(name)):
                raise Refused("DUPLICATE_NAME")

    def find(self, artifact_id: str, version: int | None = None, *, gone: str = "GONE") -> dict[str, Any]:
        """Return a live artifact of this version."""
        row = self.artifacts.get(artifact_id)
        if row is None:
            raise Refused("ARTIFACT_NOT_FOUND")
        if row["deleted"]:
            raise Refused(gone)
        if version is not None and row["version"] != version:
            raise Refused("VERSION_MISMATCH")
        return row

    def use_default(self, collection_id: str) -> None:
        """Make the collection `default` when it is needed."""
        if collection_id == "default" and "default" not in self.collections:
            if any(row["name"] == "default" for row in self.live(self.collections).values()):
                raise Refused("DUPLICATE_NAME")
            self.collections["default"] = {"name": "default", "version": 1, "deleted": False}
            self.changes += 1

    def create_artifact(self, identifier: str, collection_id: str, name: str, content: Any, data: Any) -> Any:
        """Create an artifact."""
        check_name(name)
        self.require_collection(collection_id)
        if identifier in self.artifacts:
            raise Refused("DUPLICATE_ID")
        self.require_free(collection_id, name)
        self.use_default(collection_id)
        self.artifacts[identifier] = {
            "collection": collection_id,
            "name": name,
            "content": content.encode() if isinstance(content, str) else content,
            "metadata": data,
            "version": 1,
            "revisions": 1,
            "deleted": False,
            "detached": [],
        }
        self.changes += 1
        return 1

    def update_artifact(self, identifier: str, version: int | None, wish: dict[str, Any]) -> Any:
        """Change an artifact; return its version."""
        if "name" in wish:
            check_name(wish["name"])
        row = self.find(identifier, version)
        new = {
            "name": wish.get("name", row["name"]),
            "collection": wish.get("collection_id", row["collection"]),
            "metadata": wish.get("metadata", row["metadata"]),
            "content": row["content"],
        }
        if "content" in wish:
            content = wish["content"]
            new["content"] = content.encode() if isinstance(content, str) else content
        if (new["name"], new["collection"]) != (row["name"], row["collection"]):
            self.require_collection(new["collection"])
            self.require_free(new["collection"], new["name"], but=identifier)
        if {name: repr(value) for name, value in new.items()} != {name: repr(row[name]) for name in new}:
            self.use_default(new["collection"])
            row |= new | {"version": row["version"] + 1, "revisions": row["revisions"] + 1}
            self.changes += 1
        return row["version"]

    def delete_artifact(self, identifier: str, version: int | None, mode: str) -> Any:
        """Bury an artifact, in mode detach with its relationships."""
        row = self.find(identifier, version, gone="ALREADY_DELETED")
        mine = sorted(
            name
            for name, edge in self.live(self.edges).items()
            if identifier in (edge["source"], edge["target"])
        )
        if mine and mode == "restrict":
            raise Refused("ARTIFACT_HAS_RELATIONSHIPS")
        for name in mine:
            self.edges[name] |= {"deleted": True, "version": self.edges[name]["version"] + 1}
        row |= {"deleted": True, "version": row["version"] + 1}
        self.changes += 1 + len(mine)
        return row["version"]

    def restore_artifact(self, identifier: str) -> Any:
        """Bring an artifact back."""
        row = self.artifacts.get(identifier)
        if row is None:
            raise Refused("ARTIFACT_NOT_FOUND")
        if not row["deleted"]:
            raise Refused("NOT_DELETED")
        self.require_collection(row["collection"])
        self.require_free(row["collection"], row["name"])
        row |= {"deleted": False, "version": row["version"] + 1}
        self.changes += 1
        return row["version"]

    def create_edge(self, identifier: str, source: str, target: str, kind: str) -> Any:
        """Relate two artifacts; what says where things come from goes in no circle."""
        if source == target:
            raise Refused("SELF_RELATIONSHIP")
        live = self.live(self.artifacts)
        if source not in live or target not in live:
            raise Refused("ENDPOINT_NOT_FOUND")
        edges = self.live(self.edges).values()
        triple = {"source": source, "type": kind, "target": target}
        if any(triple.items() <= edge.items() for edge in edges):
            raise Refused("DUPLICATE_RELATIONSHIP")
        if kind in ACYCLIC and source in self.reach(target, kind):
            raise Refused("RELATIONSHIP_CYCLE")
        self.edges[identifier] = {**triple, "version": 1, "deleted": False}
        self.changes += 1
        return 1

    def reach(self, start: str, kind: str) -> set[str]:
        """Return what an artifact comes from, itself included."""
        found, waiting = set(), [start]
        while waiting:
            at = waiting.pop()
            found.add(at)
            waiting += [
                edge["target"]
                for edge in self.live(self.edges).values()
                if (edge["source"], edge["type"]) == (at, kind) and edge["target"] not in found
            ]
        return found

    def delete_edge(self, identifier: str) -> Any:
        """Bury a relationship."""
        row = self.edges.get(identifier)
        if row is None:
            raise Refused("RELATIONSHIP_NOT_FOUND")
        if row["deleted"]:
            raise Refused("ALREADY_DELETED")
        row |= {"deleted": True, "version": row["version"] + 1}
        self.changes += 1
        return row["version"]

    def create_collection(self, identifier: str, name: str) -> Any:
        """Create a collection."""
        check_name(name)
        if identifier in self.collections:
            raise Refused("DUPLICATE_ID")
        if key_of(name) in {key_of(row["name"]) for row in self.live(self.collections).values()}:
            raise Refused("DUPLICATE_NAME")
        self.collections[identifier] = {"name": name, "version": 1, "deleted": False}
        self.changes += 1
        return 1

    def delete_collection(self, identifier: str) -> Any:
        """Bury an empty collection."""
        row = self.collections.get(identifier)
        if row is None:
            raise Refused("COLLECTION_NOT_FOUND")
        if row["deleted"]:
            raise Refused("ALREADY_DELETED")
        if any(item["collection"] == identifier for item in self.live(self.artifacts).values()):
            raise Refused("COLLECTION_NOT_EMPTY")
        row |= {"deleted": True, "version": row["version"] + 1}
        self.changes += 1
        return row["version"]


@dataclass
class Side:
    """One database with the clock and the ids of its own, which are those of the other."""

    repo: SpineRepository
    clock: SteppingClock
    ids: CountingIds
    outside: sa.Connection

    def head(self, tenant_id: str) -> tuple[int, str]:
        """Return number and hash of a tenant's last change record, read beside the library."""
        row = self.outside.execute(HEAD, {"t": tenant_id}).one_or_none()
        return (0, "") if row is None else (row.last_seq, row.last_hash)

    def rows(self, tenant_id: str) -> list[list[Any]]:
        """Return every row of a tenant that a snapshot would hold, by table."""
        return [sorted(map(repr, self.outside.execute(query, {"t": tenant_id}))) for query in ROWS]


class Machine(RuleBasedStateMachine):
    """Drives both databases and the model with the same calls."""

    sides: tuple[Side, ...] = ()
    folder: Path
    tenants: Iterator[int] = count()
    # Calls of the library: one step of the machine is one for each database.
    steps = 0
    met: Counter[str] = Counter()

    @initialize()
    def begin(self) -> None:
        """Start with a new tenant on each side."""
        self.tenant = f"tenant-{next(type(self).tenants)}"
        for side in self.sides:
            side.ids.reset()
        self.repos = [side.repo.bind(RepositoryContext(self.tenant, "user-1")) for side in self.sides]
        self.model = Model()
        self.made, self.head = 0, (0, "")
        self.create_collection("shelf")
        for name in ("one", "two", "three", "four"):
            self.create_artifact(0, name, "red fish", {"k": 1}, False)
        for start in (0, 1):
            self.relate(start, 1, "derived_from")

    def do(self, predict: Callable[[Model], Any], call: Callable[[SpineRepository], Any]) -> None:
        """Make one call everywhere and compare what came of it."""
        type(self).steps += 1
        wanted: tuple[str, Any]
        try:
            wanted = ("done", predict(self.model))
        except Refused as refused:
            # The model refuses before it changes anything.
            wanted = ("refused", refused.code)
        self.met[str(wanted[1]) if wanted[0] == "refused" else "done"] += 1
        outcomes = []
        for side, repo in zip(self.sides, self.repos, strict=True):
            side.clock.moment += timedelta(milliseconds=1)
            try:
                outcomes.append(("done", call(repo).model_dump_json()))
            except RepositoryError as error:
                outcomes.append(("refused", error.code))
        first, *others = outcomes
        assert all(other == first for other in others), outcomes
        assert first[0] == wanted[0], (first, wanted)
        if wanted[0] == "refused":
            assert first == wanted
        elif wanted[1] is not None:
            assert f'"version":{wanted[1]}' in first[1], (first, wanted)

    def artifact(self, pick: int) -> str:
        """Return an artifact that was made, or was not."""
        known = sorted(self.model.artifacts)
        return known[pick % len(known)] if known and pick < LAST else "nowhere"

    def collection(self, pick: int) -> str:
        """Return a collection that was made, or was not."""
        known = [*sorted(self.model.collections), "default", "default"]
        return known[pick % len(known)] if pick < LAST else "nowhere"

    def new(self, prefix: str) -> str:
        """Return a new id."""
        self.made += 1
        return f"{prefix}-{self.made}"

    @rule(name=NAMES)
    def create_collection(self, name: str) -> None:
        made = self.new("col")
        self.do(lambda m: m.create_collection(made, name), lambda r: r.create_collection(name, id=made))

    @rule(pick=PICK)
    def delete_collection(self, pick: int) -> None:
        found = self.collection(pick)
        self.do(lambda m: m.delete_collection(found), lambda r: r.delete_collection(found))

    @rule(pick=PICK, name=NAMES, content=CONTENTS, metadata=METADATA, again=st.booleans())
    def create_artifact(self, pick: int, name: str, content: Any, metadata: Any, again: bool) -> None:
        used = sorted(self.model.artifacts)
        made = used[0] if again and used and pick == 0 else self.new("art")
        place = self.collection(pick)
        self.do(
            lambda m: m.create_artifact(made, place, name, content, metadata),
            lambda r: r.create_artifact(place, name, "note", id=made, content=content, metadata=metadata),
        )

    @rule(
        pick=PICK,
        version=st.sampled_from([None, None, 1, 2, 3]),
        wish=st.fixed_dictionaries(
            {}, optional={"name": NAMES, "content": CONTENTS, "metadata": METADATA, "collection_id": PICK}
        ),
    )
    def update_artifact(self, pick: int, version: int | None, wish: dict[str, Any]) -> None:
        found = self.artifact(pick)
        if "collection_id" in wish:
            wish = wish | {"collection_id": self.collection(wish["collection_id"])}
        self.do(
            lambda m: m.update_artifact(found, version, wish),
            lambda r: r.update_artifact(found, expected_version=version, **wish),
        )

    @rule(pick=PICK, version=st.sampled_from([None, None, 1]), mode=st.sampled_from(["restrict", "detach"]))
    def delete_artifact(self, pick: int, version: int | None, mode: Any) -> None:
        found = self.artifact(pick)
        self.do(
            lambda m: m.delete_artifact(found, version, mode),
            lambda r: r.delete_artifact(found, expected_version=version, mode=mode),
        )

    @rule(pick=PICK)
    def restore_artifact(self, pick: int) -> None:
        found = self.artifact(pick)
        self.do(lambda m: m.restore_artifact(found), lambda r: r.restore_artifact(found))

    @rule(start=PICK, away=st.sampled_from([1, 2, 3, 1, 2, 3, 0]), kind=TYPES)
    def relate(self, start: int, away: int, kind: str) -> None:
        made, one = self.new("rel"), self.artifact(start)
        two = self.artifact((start + away) % LAST) if start < LAST else self.artifact(0)
        self.do(
            lambda m: m.create_edge(made, one, two, kind),
            lambda r: r.create_relationship(one, two, kind, id=made),
        )

    @rule(pick=PICK, back=st.booleans())
    def relate_again(self, pick: int, back: bool) -> None:
        """The same once more, or the way back, which may close a circle."""
        edges = [edge for _, edge in sorted(self.model.live(self.model.edges).items())]
        if not edges:
            return
        edge = edges[pick % len(edges)]
        one, two = (edge["target"], edge["source"]) if back else (edge["source"], edge["target"])
        made, kind = self.new("rel"), edge["type"]
        self.do(
            lambda m: m.create_edge(made, one, two, kind),
            lambda r: r.create_relationship(one, two, kind, id=made),
        )

    @rule(pick=PICK)
    def part(self, pick: int) -> None:
        known = sorted(self.model.edges)
        found = known[pick % len(known)] if known else "nowhere"
        self.do(lambda m: m.delete_edge(found), lambda r: r.delete_relationship(found))

    @rule(first=NAMES, second=NAMES, pick=PICK, fails=st.booleans())
    def write_together(self, first: str, second: str, pick: int, fails: bool) -> None:
        """Two creations in one transaction; a refusal inside, or an exception at its end."""
        ids = (self.new("art"), self.new("art"))
        place = self.collection(pick)

        def predict(model: Model) -> None:
            kept = copy.deepcopy(model)
            for made, name in zip(ids, (first, second), strict=True):
                with suppress(Refused):
                    model.create_artifact(made, place, name, name, {})
            if fails:
                model.__dict__.update(kept.__dict__)
                raise Refused("TAKEN_BACK")

        def call(repo: SpineRepository) -> Any:
            with repo.transaction() as tx:
                for made, name in zip(ids, (first, second), strict=True):
                    try:
                        tx.create_artifact(place, name, "note", id=made, content=name)
                    except RepositoryError:
                        continue
                if fails:
                    raise RepositoryError("TAKEN_BACK", "at will")
            return repo.list_changes(since_seq=max(self.model.changes - 3, 0))

        self.do(predict, call)

    @rule(word=st.sampled_from(["red", "fish", "blue"]), value=st.sampled_from([1, True, 10**40]))
    def search(self, word: str, value: Any) -> None:
        type(self).steps += 1
        live = self.model.live(self.model.artifacts)
        by_word = {i for i, row in live.items() if row["content"] and word.encode() in row["content"].split()}
        by_value = {
            i
            for i, row in live.items()
            if isinstance(row["metadata"].get("k"), int | float)
            and isinstance(row["metadata"]["k"], bool) == isinstance(value, bool)
            and row["metadata"]["k"] == value
        }
        condition = {"pointer": "/k", "op": "eq", "value": value}
        for repo in self.repos:
            assert {item.id for item in repo.query_artifacts(text=word).items} == by_word
            assert {item.id for item in repo.query_artifacts(metadata=[condition]).items} == by_value

    @rule(pick=PICK)
    def read(self, pick: int) -> None:
        found = self.artifact(pick)

        def predict(model: Model) -> Any:
            return model.find(found)["version"]

        self.do(predict, lambda r: r.get_artifact(found))

    @invariant()
    def the_feed_has_one_hash_and_no_gap(self) -> None:
        """After each step: the last hash covers every column of every record, and so every revision."""
        if not hasattr(self, "model"):
            return
        heads = [side.head(self.tenant) for side in self.sides]
        assert [seq for seq, _ in heads] == [self.model.changes] * len(heads)
        assert len(set(heads)) == 1
        if heads[0] != self.head:
            self.head = heads[0]
            first, second = (side.rows(self.tenant) for side in self.sides)
            assert first == second

    def teardown(self) -> None:
        """The snapshots are equal, the heads are those of the model, and nothing is found amiss."""
        if not hasattr(self, "model"):
            return
        digests = set()
        for number, repo in enumerate(self.repos):
            digests.add(repo.export_snapshot(self.folder / f"{number}.zip").snapshot_digest)
            assert [f for f in repo.verify().findings if f.code.startswith("E")] == []
            shown = {item.id: item for item in repo.list_artifacts(include_deleted=True, limit=500).items}
            assert shown.keys() == self.model.artifacts.keys()
            assert len(repo.list_changes(limit=500).items) == self.model.changes
            for identifier, row in self.model.artifacts.items():
                item = shown[identifier]
                assert (item.name, item.collection_id, item.version, item.head_revision) == (
                    row["name"],
                    row["collection"],
                    row["version"],
                    row["revisions"],
                )
                assert repr(item.metadata) == repr(row["metadata"])
                assert (item.deleted_at is not None) is row["deleted"]
        assert len(digests) == 1


@pytest.fixture
def sides(databases: Databases) -> Iterator[tuple[Side, ...]]:
    """A SQLite file and a PostgreSQL database."""
    with TemporaryDirectory(prefix="hoc-machine-") as folder, ExitStack() as stack:
        made = []
        for url in (f"sqlite:///{folder}/knowledge.db", databases.new("postgresql")):
            clock, ids = SteppingClock(), CountingIds()
            repo = open_repository(url, create=True, clock=clock, ids=ids)
            stack.callback(repo.close)
            engine = make_engine(url, pool_size=1)
            stack.callback(engine.dispose)
            outside = stack.enter_context(engine.connect())
            made.append(Side(repo, clock, ids, outside))
        yield tuple(made)


@pytest.mark.timeout(300)
def test_both_databases_do_what_the_model_does(sides: tuple[Side, ...], tmp_path: Path) -> None:
    class Driven(Machine):
        """The machine on the databases of this test."""

    Driven.sides, Driven.folder = sides, tmp_path
    run_state_machine_as_test(
        Driven,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Driven.steps >= 2000
    assert set(Driven.met) >= MET, MET - set(Driven.met)
