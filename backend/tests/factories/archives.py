"""Test archives: forged line by line with the server's own key, true or false, without a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from app.domains.logs.engines import archive, bundle, note
from app.domains.logs.engines.note import Checkpoint, SigningKey
from app.kernel import merkle
from app.kernel.canonical_json import dumps, loads
from tests.factories.bundles import OTHER_KEY, Forge, small_run
from tests.factories.proof_vectors import Case

Bend = Callable[[dict[str, Any]], object]


def log_of(forge: Forge, left_out: Sequence[str] = ()) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the statements of a log, and those of them that an archive of the run has.

    What stays: the first, every seventh, the last, and facts of the types left out.
    """
    goes = [*forge.context, *forge.facts, *forge.late]
    everything: list[dict[str, Any]] = [_stranger(forge, 0)]
    for number, statement in enumerate(goes, 1):
        everything.append(statement)
        if number % 7 == 0:
            everything.append(_stranger(forge, number))
    return everything, [statement for statement in goes if statement["type"] not in left_out]


def _stranger(forge: Forge, number: int) -> dict[str, Any]:
    return {"tenant": forge.tenant, "fact": f"other_{number}"}


def build(
    forge: Forge,
    *,
    left_out: Sequence[str] = (),
    staying: Sequence[dict[str, Any]] = (),
    bend_header: Bend | None = None,
    bend_lines: Bend | None = None,
    key: SigningKey | None = None,
) -> bytes:
    """Return the archive of the forged run; `staying` are erasures that stay in the log, as its context."""
    everything, goes = log_of(forge, left_out)
    everything += staying
    places = {str(statement["fact"]): index for index, statement in enumerate(everything)}
    hashes = [merkle.leaf(dumps(statement).encode()) for statement in everything]
    size = len(hashes)
    checkpoint = Checkpoint(forge.origin, size, merkle.root(hashes))
    mine = [places[str(statement["fact"])] for statement in goes]
    context = [places[str(statement["fact"])] for statement in staying]
    lines = {
        "context": [dumps(statement) for statement in staying],
        "statements": [dumps(statement) for statement in goes],
        "traces": [line for one in forge.chains for line in one],
        "values": list(forge.values),
    }
    header = loads(
        archive.header(
            archive_id="arc_1",
            tenant_id=forge.tenant,
            origin=forge.origin,
            epoch=1,
            first=mine[0],
            after=mine[-1] + 1,
            checkpoint=note.sign(checkpoint.text(), name=forge.origin, key=key or forge.key),
            vkeys=[forge.vkey],
            lines={name: len(section) for name, section in lines.items()},
            ranges={"context": archive.ranges_of(context), "statements": archive.ranges_of(mine)},
            multiproof=merkle.multiproof(sorted([*context, *mine]), size, merkle.ranges_of(hashes)),
        )
    )
    for bend, bent in ((bend_header, header), (bend_lines, lines)):
        if bend is not None:
            bend(bent)
    text = [dumps(header), *(line for name in archive.SECTIONS for line in lines[name])]
    return "".join(f"{line}\n" for line in text).encode()


def with_erasure(forge: Forge, *, named: bool = True) -> list[dict[str, Any]]:
    """Erase the last value of a run, and return the fact that says so, which stays in the log."""
    commit = loads(forge.values[-1])["commit"]
    forge.values[-1] = bundle.erased_line(commit, "fct_erasure")
    return [
        {
            "type": "erasure",
            "tenant": forge.tenant,
            "fact": "fct_erasure",
            "run": forge.run,
            "body": {"commitments": [commit] if named else []},
        }
    ]


def _cases_of_lines() -> Iterator[Case]:
    good = build(small_run())
    lines = good.splitlines(keepends=True)
    yield Case("the good archive", good, (), 0, strict=True)
    no_values = small_run()
    no_values.values[1:] = []
    yield Case("an archive without values", build(no_values), (), 0)
    with_output = small_run()
    with_output.facts.pop()
    with_output.fact("run.output", {})
    with_output.close()
    kept = build(with_output, left_out=("run.output",))
    yield Case("an archive of a run whose output stays", kept, (), 0)
    yield Case("a line less", b"".join(lines[:-1]), ("LINE_COUNT",))
    yield Case("a cut file", good[:-7], ("LINE_COUNT",))
    yield Case("a line too many", good + lines[-1], ("LINE_COUNT",))
    repeated = b"".join([*lines[:3], *lines[2:]])
    yield Case("a statement said twice", repeated, ("DUPLICATE_FACT", "LINE_COUNT", "NOT_INCLUDED"))
    swapped = b"".join([*lines[:2], lines[3], lines[2], *lines[4:]])
    yield Case("two statements in each other's place", swapped, ("NOT_INCLUDED",))
    edited = good.replace(b'"outcome":"DENIED"', b'"outcome":"FAILED"')
    yield Case("an edited statement", edited, ("NOT_INCLUDED",))
    yield Case("no UTF-8", good[:-9] + b"\xff" + good[-8:], ("UNREADABLE",), 2)
    later = good.replace(b"hoc-log-archive/1", b"hoc-log-archive/2")
    yield Case("a format of the future", later, ("UNREADABLE",), 2)
    spaced = good.replace(b'"epoch":1', b'"epoch": 1')
    yield Case("a header of another spelling", spaced, ("NOT_CANONICAL",))


def _cases_of_headers() -> Iterator[Case]:
    def case(name: str, *codes: str, bend: Bend, **more: Any) -> Case:
        return Case(name, build(small_run(), bend_header=bend), codes, **more)

    def count(header: dict[str, Any]) -> None:
        header["sections"][1]["lines"] += 1

    def shifted(header: dict[str, Any]) -> None:
        places = header["sections"][1]["indices"]
        header["sections"][1]["indices"] = [[first - 1, after - 1] for first, after in places]

    def twice(header: dict[str, Any]) -> None:
        header["sections"][1]["indices"][1][0] -= 2

    def swapped(header: dict[str, Any]) -> None:
        header["sections"][1]["indices"][1:] = header["sections"][1]["indices"][:0:-1]

    def hashes(header: dict[str, Any]) -> None:
        header["multiproof"][0] = header["multiproof"][-1]

    yield case("wrong counts", "LINE_COUNT", bend=count)
    yield case("other indices", "BAD_INDEX", "NOT_INCLUDED", bend=shifted)
    yield case("an index twice", "BAD_INDEX", bend=twice)
    yield Case(
        "indices out of order",
        build(small_run(), left_out=("retrieval.evidence",), bend_header=swapped),
        ("BAD_INDEX",),
    )
    yield case("a smaller range", "BAD_INDEX", bend=lambda header: header.update({"from": 2}))
    yield case("a larger range", "BAD_INDEX", bend=lambda header: header.update(to=1000))
    yield case("a wrong hash in the proof", "NOT_INCLUDED", bend=hashes)
    yield case("a hash less in the proof", "NOT_INCLUDED", bend=lambda header: header["multiproof"].pop())
    yield case("another tenant", "BAD_HEADER", "FOREIGN_FACT", bend=lambda header: header.update(tenant="t"))
    yield case("another epoch", "BAD_HEADER", bend=lambda header: header.update(epoch=2))
    note_of_two = lambda header: header.update(checkpoint="x\n\n" + header["checkpoint"])  # noqa: E731
    yield case("a checkpoint of two lines", "BAD_CHECKPOINT", bend=note_of_two)
    good = build(small_run())
    yield Case("no key", good, ("NO_TRUSTED_KEY",), keys=())
    yield Case("another key", build(small_run(), key=OTHER_KEY), ("BAD_SIGNATURE",))
    vkey = OTHER_KEY.vkey("witness.example/w1")
    yield Case("a witness that did not sign", good, ("QUORUM_NOT_MET",), witnesses=(vkey,))
    everything, _ = log_of(small_run())
    hashed = [merkle.leaf(dumps(statement).encode()) for statement in everything]
    same, old = (
        note.sign(
            Checkpoint(small_run().origin, size, merkle.root(hashed[:size])).text(),
            name=small_run().origin,
            key=small_run().key,
        )
        for size in (len(hashed), 3)
    )
    yield Case("the checkpoint that was kept", good, (), 0, checkpoint=same)
    yield Case("an older checkpoint", good, ("INCONSISTENT",), checkpoint=old)


def _cases_of_runs() -> Iterator[Case]:
    def case(name: str, *codes: str, change: Callable[[Forge], object]) -> Case:
        forge = small_run()
        change(forge)
        return Case(name, build(forge), codes)

    def closure(forge: Forge) -> dict[str, Any]:
        found: dict[str, Any] = forge.facts[-1]["body"]["closure"]
        return found

    def recounted(forge: Forge) -> None:
        """Count an output, which would stay in the log, in the place of the evaluation."""
        counts = closure(forge)["type_counts"]
        counts["run.output"] = counts.pop("evaluation")

    def without(*types: str) -> bytes:
        return build(small_run(), left_out=types)

    yield Case("a run that nothing closes", without("run.completed"), ("CLOSURE_MISMATCH",))
    yield Case("a fact that was left out", without("evaluation"), ("CLOSURE_MISMATCH",))
    yield Case("a seal that was left out", without("trace.sealed"), ("CLOSURE_MISMATCH",))
    yield case("a closure over another root", "CLOSURE_MISMATCH",
               change=lambda f: closure(f)["traces"][0].update(root_hash="00" * 32))  # fmt: skip
    yield case("a closure that counts another fact", "CLOSURE_MISMATCH", change=recounted)
    yield case("a fact of another tenant", "FOREIGN_FACT", change=lambda f: f.facts[1].update(tenant="t"))
    yield case("a chain that was cut", "HEAD_MISMATCH", "SEAL_MISMATCH", change=lambda f: f.chains[0].pop())
    yield case("a chain that is missing", "GENESIS_MISMATCH", "HEAD_MISMATCH", "SEAL_MISMATCH",
               change=lambda f: f.chains.clear())  # fmt: skip
    yield case("a chain that nobody began", "GENESIS_MISMATCH", change=lambda f: f.chains.append(
        [f.chains[0][0].replace("run-1", "run-2")]))  # fmt: skip
    yield case("two steps in each other's place", "CHAIN_MISMATCH", "HEAD_MISMATCH",
               change=lambda f: f.chains[0].__setitem__(slice(1, 3), f.chains[0][2:0:-1]))  # fmt: skip
    edited = build(small_run()).replace(b'"step_index":1,"type"', b'"step_index":1,"typo":1,"type"')
    yield Case("an edited step", edited, ("HEAD_MISMATCH", "SEAL_MISMATCH"))


def _cases_of_values() -> Iterator[Case]:
    def case(name: str, *codes: str, change: Callable[[Forge], object]) -> Case:
        forge = small_run()
        change(forge)
        return Case(name, build(forge), codes)

    def erased(*, named: bool = True, there: bool = True) -> bytes:
        forge = small_run()
        fact = with_erasure(forge, named=named)
        return build(forge, staying=fact if there else ())

    yield Case("an erased value", erased(), (), 0)
    yield Case("an erasure of another value", erased(named=False), ("ERASURE_UNPROVED",))
    yield Case("an erasure that is not there", erased(there=False), ("ERASURE_UNPROVED",))
    yield case("a value that was changed", "VALUE_TAMPERED",
               change=lambda f: f.values.__setitem__(-1, f.values[-1].replace('"x"', '"y"')))  # fmt: skip
    yield case("a value that nobody knows", "VALUE_UNKNOWN",
               change=lambda f: f.values.append(bundle.intact_line("c1:x", "00" * 32, {})))  # fmt: skip
    yield case("a text that is missing", "SNAPSHOT_MISMATCH", change=lambda f: f.values.pop(0))
    yield case("a text that is another", "SNAPSHOT_MISMATCH",
               change=lambda f: f.values.__setitem__(0, f.values[0].replace("kp_1", "kp_2")))  # fmt: skip


def archive_cases() -> list[Case]:
    """Return the good archive, and one or more for every code that an archive can have."""
    found = [*_cases_of_lines(), *_cases_of_headers(), *_cases_of_runs(), *_cases_of_values()]
    return [replace(case, name=f"archive: {case.name}") for case in found]
