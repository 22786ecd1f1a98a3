"""Logs L5: read the rows that facts are about, and whatever else the log says of the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.db.connection import DriverConnection, Row
from app.db.governed import GOVERNED, Governed
from app.domains.logs.drivers import governed_rows as driver
from app.domains.logs.drivers import leaves as leaves_driver
from app.domains.logs.engines.heads import SYSTEM
from app.domains.logs.engines.recorded import Recorded, read
from app.kernel.canonical_json import dumps, loads

Found = TypeVar("Found")
AUDIT = "audit"
ERASURE = "erasure"
# So many of an entity's newest ledger entries are asked for what its row holds.
ENTRIES = 8
_SHOWN = 100

_BY_CLAIMS = ("EVENTED", "AUDITED")


@dataclass(frozen=True, slots=True)
class Claim:
    """What one fact says of a row: the columns that it carries, and when it was written."""

    at: str
    fact_id: str
    stated: Mapping[str, Any]
    is_image: bool = False


@dataclass(slots=True)
class Subject:
    """One governed row beside what the log says of it; the row is None when it is gone."""

    entry: Governed
    key: Sequence[Any]
    row: Row | None = None
    # APPEND and HEAD: the fact that the row has to carry; HEAD: since when it is there.
    fact: Recorded | None = None
    since: str | None = None
    claims: list[Claim] = field(default_factory=list)
    # A leaf about this row lost its hash: what the row should hold is no longer known.
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class RowFacts:
    """The rows of some facts, read at one moment, and the commitments that erasures list."""

    subjects: Sequence[Subject]
    erased: frozenset[str]


def read_rows(connection: DriverConnection, facts: Sequence[Recorded], *, tenant_id: str) -> RowFacts:
    """Return every governed row that these facts are about; one or two statements for each table."""
    reader = _Reader(connection, facts, tenant_id)
    subjects: list[Subject] = []
    for table, mine in _by_table(facts).items():
        entry = GOVERNED.get(table)
        if entry is None or entry.mode == "CHAINED":
            continue
        if entry.mode == "APPEND":
            subjects += reader.appended(entry, mine)
        elif entry.mode == "HEAD":
            subjects += reader.heads(entry, mine)
    subjects += reader.claimed()
    return RowFacts(subjects, reader.erased(subjects))


def find_row(connection: DriverConnection, table: str, key: str, *, tenant_id: str) -> Row | None:
    """Return one row of a governed table, however damaged; None when it is gone."""
    rows = tolerant(driver.list_by_keys, connection, table, [[key]], tenant_id=tenant_id)
    return rows[0] if rows else None


def list_unlogged_of_run(connection: DriverConnection, *, tenant_id: str, run_id: str) -> list[str]:
    """Return the tables of rows that bear the run's id and carry no fact about themselves."""
    found = driver.list_unlogged_of_run(connection, tenant_id=tenant_id, run_id=run_id)
    return sorted({row["table"] for row in found})


def list_unlogged(
    connection: DriverConnection, table: str, *, tenant_id: str, after: str, upto: str | None
) -> Sequence[str]:
    """Return facts in (after, upto] that rows of a table carry and that are not about this table."""
    return driver.list_unlogged(connection, table, tenant_id=tenant_id, after=after, upto=upto, limit=_SHOWN)


def list_unrecorded(connection: DriverConnection, table: str, *, tenant_id: str) -> Sequence[str]:
    """Return keys of rows that neither a leaf nor a ledger entry is about."""
    if tenant_id == SYSTEM and GOVERNED[table].operated:
        return ()
    return driver.list_unrecorded(
        connection,
        table,
        tenant_id=tenant_id,
        operator=SYSTEM,
        in_ledger=GOVERNED[table].mode == "AUDITED",
        limit=_SHOWN,
    )


def tolerant(fetch: Callable[..., Found], *arguments: Any, **given: Any) -> Found:
    """Return rows; when one of them holds a value that its column cannot, all of them as they are stored."""
    try:
        return fetch(*arguments, **given)
    except Exception:  # noqa: BLE001 - a damaged value, or an outage: that fails again
        return fetch(*arguments, **given, raw=True)


def _by_table(facts: Iterable[Recorded]) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {}
    for fact in facts:
        table = fact.leaf["ref_table"] if fact.said is None else fact.said.get("table")
        if isinstance(table, str):
            found.setdefault(table, []).append(fact)
    return found


class _Reader:
    """The statements of one reading, and the leaves that it has met."""

    def __init__(self, connection: DriverConnection, facts: Sequence[Recorded], tenant_id: str) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._facts = facts
        self._known = {fact.fact_id: fact for fact in facts}

    def appended(self, entry: Governed, facts: Sequence[Recorded]) -> list[Subject]:
        """Return the rows of facts that each have one row."""
        sound = [fact for fact in facts if fact.said is not None]
        rows = self._rows_by_fact(entry, [fact.fact_id for fact in sound])
        subjects = [Subject(entry, _key(fact), rows.get(fact.fact_id), fact) for fact in sound]
        lost = [subject for subject in subjects if subject.row is None]
        # Gone, or still there under another fact: its key tells.
        found = self._rows_by_key(entry, [subject.key for subject in lost])
        for subject in lost:
            subject.row = found.get(dumps(list(subject.key)))
        return subjects

    def heads(self, entry: Governed, facts: Sequence[Recorded]) -> list[Subject]:
        """Return the rows that the newest of their facts describes."""
        keys = {str(fact.leaf["ref_key"]): fact for fact in facts}
        first: dict[str, Row] = {}
        newest: dict[str, Row] = {}
        for leaf in self._about(entry, keys):
            name, version = leaf["ref_key"], leaf["ref_version"] or 0
            if name not in first or version < (first[name]["ref_version"] or 0):
                first[name] = leaf
            if name not in newest or version > (newest[name]["ref_version"] or 0):
                newest[name] = leaf
        self._learn([leaf["fact_id"] for leaf in (*first.values(), *newest.values())])
        subjects = []
        for name in newest:
            fact, oldest = self._known[newest[name]["fact_id"]], self._known[first[name]["fact_id"]]
            if fact.said is None:
                continue
            since = None if oldest.said is None else str(oldest.said["at"])
            subjects.append(Subject(entry, _key(fact), None, fact, since))
        rows = self._rows_by_key(entry, [subject.key for subject in subjects])
        for subject in subjects:
            subject.row = rows.get(dumps(list(subject.key)))
        return subjects

    def claimed(self) -> list[Subject]:
        """Return the rows that several facts describe: by their own types, and by images in the ledger."""
        found: dict[tuple[str, str], Subject] = {}
        for table, facts in _by_table(self._facts).items():
            entry = GOVERNED.get(table)
            if entry is not None and entry.mode in _BY_CLAIMS:
                self._claims_of_facts(entry, facts, found)
        self._claims_of_ledger(found)
        for table in sorted({name for name, _ in found}):
            mine = {name: subject for (of, name), subject in found.items() if of == table}
            rows = self._rows_by_key(GOVERNED[table], [subject.key for subject in mine.values()])
            for name, subject in mine.items():
                subject.row = rows.get(name)
        return list(found.values())

    def _claims_of_facts(
        self, entry: Governed, facts: Sequence[Recorded], found: dict[tuple[str, str], Subject]
    ) -> None:
        leaves = self._about(entry, [str(fact.leaf["ref_key"]) for fact in facts])
        self._learn([leaf["fact_id"] for leaf in leaves])
        for leaf in leaves:
            fact = self._known[leaf["fact_id"]]
            subject = _subject(found, entry, _key_text(leaf["ref_key"]))
            if subject is None:
                continue
            if fact.said is None:
                subject.unknown = True
            else:
                subject.claims.append(Claim(str(fact.said["at"]), fact.fact_id, fact.body))

    def _claims_of_ledger(self, found: dict[tuple[str, str], Subject]) -> None:
        wanted: dict[str, set[str]] = {}
        mine: dict[str, set[str]] = {}
        for fact in self._facts:
            if fact.said is not None and fact.said.get("type") == AUDIT:
                entity = str(fact.body.get("entity_type"))
                wanted.setdefault(entity, set()).add(str(fact.body.get("entity_id")))
                mine.setdefault(entity, set()).add(fact.fact_id)
        for (table, _), subject in found.items():
            if len(subject.key) == 1:
                wanted.setdefault(GOVERNED[table].entity, set()).add(str(subject.key[0]))
        for entity, names in sorted(wanted.items()):
            entries = [
                entry
                for entry in GOVERNED.values()
                if entry.mode in _BY_CLAIMS and entry.entity == entity and not entry.operated
            ]
            if not entries:
                continue
            newest = driver.list_entries_about(
                self._connection, entity, sorted(names), tenant_id=self._tenant_id, newest=ENTRIES
            )
            self._learn([row["fact_id"] for row in newest])
            # The facts at hand speak even when their ledger entries are gone.
            speaking = {row["fact_id"] for row in newest} | mine.get(entity, set())
            for name in sorted(speaking):
                for entry in entries:
                    claim_of_image(entry, self._known[name], found)

    def erased(self, subjects: Sequence[Subject]) -> frozenset[str]:
        """Return the commitments that erasures list: those among the facts, and those that rows name."""
        named = [
            subject.row["erased_fact_id"]
            for subject in subjects
            if subject.row is not None and isinstance(subject.row.get("erased_fact_id"), str)
        ]
        self._learn(named)
        return commitments_erased(
            [fact for fact in self._known.values() if fact.said is not None and fact.said["type"] == ERASURE]
        )

    def _about(self, entry: Governed, keys: Iterable[str]) -> Sequence[Row]:
        return driver.list_about(
            self._connection, entry.table.name, sorted(set(keys)), tenant_id=self._tenant_id
        )

    def _learn(self, fact_ids: Sequence[str]) -> None:
        """Read the leaves of facts that were not met yet."""
        missing = sorted({name for name in fact_ids if name not in self._known})
        if missing:
            leaves = tolerant(leaves_driver.list_known, self._connection, missing, tenant_id=self._tenant_id)
            self._known.update({fact.fact_id: fact for fact in read(leaves)})
        for name in missing:
            self._known.setdefault(name, Recorded(name, {}, None))

    def _rows_by_fact(self, entry: Governed, fact_ids: Sequence[str]) -> dict[str, Row]:
        if not fact_ids:
            return {}
        rows = tolerant(
            driver.list_by_facts, self._connection, entry.table.name, fact_ids, tenant_id=self._tenant_id
        )
        return {str(row["fact_id"]): row for row in rows}

    def _rows_by_key(self, entry: Governed, keys: Sequence[Sequence[Any]]) -> dict[str, Row]:
        if not keys:
            return {}
        rows = tolerant(
            driver.list_by_keys, self._connection, entry.table.name, keys, tenant_id=self._tenant_id
        )
        return {dumps([row[name] for name in entry.key]): row for row in rows}


def commitments_named(connection: DriverConnection, subjects: Sequence[Subject]) -> frozenset[str]:
    """Return the commitments that the erasures list which these rows name, each in its own tenant's log."""
    named: dict[str, set[str]] = {}
    for row in (subject.row for subject in subjects):
        if row is not None and isinstance(row.get("erased_fact_id"), str):
            named.setdefault(row["tenant_id"], set()).add(row["erased_fact_id"])
    found: list[Recorded] = []
    for tenant_id, fact_ids in named.items():
        found += read(tolerant(leaves_driver.list_known, connection, sorted(fact_ids), tenant_id=tenant_id))
    return commitments_erased([fact for fact in found if fact.said and fact.said["type"] == ERASURE])


def commitments_erased(erasures: Sequence[Recorded]) -> frozenset[str]:
    """Return the commitments that erasure facts list."""
    listed: set[str] = set()
    for fact in erasures:
        commitments = fact.body.get("commitments")
        listed.update(loads(commitments) if isinstance(commitments, str) else commitments or ())
    return frozenset(listed)


def _key(fact: Recorded) -> Sequence[Any]:
    key: Sequence[Any] = () if fact.said is None else fact.said["key"]
    return key


def _key_text(text: Any) -> str | None:
    return text if isinstance(text, str) else None


def _subject(found: dict[tuple[str, str], Subject], entry: Governed, name: str | None) -> Subject | None:
    """Return the subject of a key's text, made when it is new; None when the text is no key of the table."""
    if name is None:
        return None
    known = found.get((entry.table.name, name))
    if known is None:
        try:
            key = loads(name)
        except ValueError:
            return None
        if not isinstance(key, list) or len(key) != len(entry.key):
            return None
        known = found[entry.table.name, name] = Subject(entry, key)
    return known


def claim_of_image(entry: Governed, fact: Recorded, found: dict[tuple[str, str], Subject]) -> None:
    image = fact.body.get("after_state")
    if isinstance(image, dict) and entry.image is not None:
        image = image.get(entry.image)
    if not isinstance(image, dict) or any(name not in image for name in entry.key):
        return
    subject = _subject(found, entry, dumps([image[name] for name in entry.key]))
    if subject is not None and fact.said is not None:
        subject.claims.append(Claim(str(fact.said["at"]), fact.fact_id, image, is_image=True))
