"""The stand-alone verifier: every code, byte and fact, and what even a server with the key cannot claim."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cryptography
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.domains.logs.engines import bundle, note, tiles
from app.domains.logs.engines.note import Checkpoint
from app.kernel import merkle
from app.kernel.canonical_json import dumps
from app.kernel.hashing import text_hash
from tests.factories import archives
from tests.factories.bundles import KEY, VERIFIER_FILE, Forge, load_verifier, small_run
from tests.factories.proof_vectors import FOLDER, Case, bent, cases

verifier = load_verifier()
CASES = cases()
ARCHIVE_CASES = archives.archive_cases()


@cache
def forge_keys() -> Any:
    """Return the key of the forge, as the verifier reads it."""
    return (verifier.parse_vkey(small_run().vkey),)


def check(data: bytes, **options: Any) -> Any:
    """Return the verifier's report on a bundle, judged by the key of the forge."""
    given = {"keys": forge_keys()} | options
    return verifier.verify_file(io.BytesIO(data), verifier.Options(**given))


def check_case(case: Case) -> Any:
    """Return the report on a case with what its auditor brings."""
    keys = (small_run().vkey,) if case.keys is None else case.keys
    return check(
        case.data,
        keys=verifier.read_keys(keys),
        old=case.checkpoint,
        witnesses=verifier.read_keys(case.witnesses),
        allow_open=case.allow_open,
        strict=case.strict,
    )


def test_each_damage_has_its_code_and_what_is_whole_has_none() -> None:
    for case in (*CASES, *ARCHIVE_CASES):
        report = check_case(case)
        found = {"UNREADABLE"} if report.unreadable else report.codes
        assert report.exit_code == case.exit_code, (case.name, report.failures, report.unreadable)
        assert found >= set(case.codes), (case.name, found)


def test_every_code_of_the_verifier_is_shown_by_a_case() -> None:
    source = VERIFIER_FILE.read_text()
    codes = set(re.findall(r'fail\(\s*\w+,\s*"([A-Z_]+)"', source))
    assert len(codes) > 25
    shown = {code for case in (*CASES, *ARCHIVE_CASES) for code in case.codes}
    # Tiles are of exported logs, which have tests of their own.
    assert codes - shown == {"TILE_MISMATCH"}


def tiny_run() -> Forge:
    """Return the smallest closed run that has every section but late facts and a snapshot."""
    forge = Forge(tenant="t", run="r", origin="o/t/1", others=1)
    trace = forge.trace(1, snapshot="s")
    forge.fact("run.started", {"trace": {k: trace[k] for k in ("trace_id", "attempt", "genesis_hash")}})
    forge.fact("evaluation", {"attempt": 1, "snapshot_id": "s"})
    seal = {k: trace[k] for k in ("trace_id", "attempt", "step_count", "root_hash", "outcome")}
    forge.fact("trace.sealed", seal)
    forge.close()
    return forge


def test_any_changed_byte_is_found() -> None:
    forge = tiny_run()
    data = bytearray(forge.build())
    keys = (verifier.parse_vkey(forge.vkey),)
    assert check(bytes(data), keys=keys).verdict == "VERIFIED"
    passed = []
    for place, byte in enumerate(data):
        # A neighbour in the alphabet; every seventh byte also another case, and no UTF-8 at all.
        for other in (byte ^ 1, byte ^ 0x20, byte | 0x80)[: 1 if place % 7 else 3]:
            data[place] = other
            report = check(bytes(data), keys=keys)
            if report.exit_code == 0 or not (report.codes or report.unreadable):
                passed.append((place, other))
        data[place] = byte
    assert passed == []


def test_any_changed_byte_of_an_archive_is_found_but_its_name_and_where_it_ends() -> None:
    forge = tiny_run()
    forge.fact("policy.snapshot", {"snapshot_id": "s", "content": {"sha256": text_hash("x")}}, to="context")
    forge.values.insert(0, bundle.text_line(text_hash("x"), "x"))
    data = bytearray(archives.build(forge, staying=archives.with_erasure(forge)))
    keys = (verifier.parse_vkey(forge.vkey),)
    report = check(bytes(data), keys=keys, strict=True)
    assert (report.verdict, report.figures["values"]["erased"]) == ("VERIFIED", 1), report.failures
    named, ends = data.index(b"arc_1"), data.index(b'"to":') + len('"to":')
    passed = set()
    for place, byte in enumerate(data):
        for other in (byte ^ 1, byte ^ 0x20, byte ^ 0x80)[: 1 if place % 7 else 3]:
            data[place] = other
            report = check(bytes(data), keys=keys)
            if report.exit_code == 0 or not (report.codes or report.unreadable):
                passed.add(place)
        data[place] = byte
    # No hash of the log covers these; the log has the digest of the whole file.
    assert passed == {*range(named, named + 5), ends}


def test_an_archive_cut_anywhere_never_verifies() -> None:
    data = archives.build(tiny_run())
    keys = (verifier.parse_vkey(tiny_run().vkey),)
    assert check(data, keys=keys).verdict == "VERIFIED"
    assert [end for end in range(0, len(data), 13) if check(data[:end], keys=keys).exit_code == 0] == []
    assert check(data[:-1], keys=keys).exit_code != 0


def test_where_the_proof_of_an_archive_ends_early_the_other_checks_go_on() -> None:
    shortened = archives.build(small_run(), bend_header=lambda header: header["multiproof"].pop(0))
    assert check(shortened).codes == {"NOT_INCLUDED"}
    moved = archives.build(small_run(), bend_header=lambda header: header.update(to=1))
    assert check(moved).codes == {"BAD_INDEX", "NOT_INCLUDED"}


def test_a_proof_is_followed_over_ranges_of_any_form() -> None:
    hashes = [merkle.leaf(bytes([number % 251, number // 251])) for number in range(700)]
    for size, ranges in (
        (1, [(0, 1)]),
        (7, [(1, 3), (5, 6)]),
        (700, [(0, 700)]),
        (700, [(0, 256), (300, 301), (511, 700)]),
        (699, [(3, 4), (4, 5), (255, 513)]),
    ):
        indices = [index for first, after in ranges for index in range(first, after)]
        proof = merkle.multiproof(indices, size, merkle.ranges_of(hashes[:size]))
        root = merkle.root(hashes[:size])
        leaves = [hashes[index] for index in indices]
        assert verifier.ranges_root(ranges, size, iter(leaves), proof) == root
        if size > 1:
            assert verifier.ranges_root(ranges, size, iter(leaves[::-1]), proof) != root
        assert verifier.ranges_root(ranges, size, iter(leaves[:-1]), proof) is None
        assert verifier.ranges_root(ranges, size, iter(leaves), [*proof, root]) is None
        tree = verifier.GrowingTree()
        for hashed in leaves:
            tree.append(hashed)
        assert tree.root() == merkle.root(leaves)


def test_any_changed_byte_of_a_proof_of_continuation_is_found() -> None:
    forge = tiny_run()
    forge.others = 7
    data = bytearray(forge.build(consistency_from=6))
    keys = (verifier.parse_vkey(forge.vkey),)
    assert check(bytes(data), keys=keys).verdict == "VERIFIED"
    start = data.index(b'"consistency"')
    for place in range(start, data.index(b"]", start)):
        for other in (data[place] ^ 1, data[place] ^ 0x20):
            changed = bytes([*data[:place], other, *data[place + 1 :]])
            assert check(changed, keys=keys).exit_code != 0, (place, other)


def test_a_file_cut_anywhere_never_verifies() -> None:
    data = tiny_run().build()
    keys = (verifier.parse_vkey(tiny_run().vkey),)
    assert [end for end in range(0, len(data), 13) if check(data[:end], keys=keys).exit_code == 0] == []
    assert check(data[:-1], keys=keys).exit_code != 0


def test_a_fact_that_a_server_with_the_key_left_out_is_found() -> None:
    # The server signs everything anew; only the numbers that the database gave the facts stay.
    for place in range(len(small_run().facts)):
        report = check(bent(lambda forge, at=place: forge.facts.pop(at)).build())  # type: ignore[misc]
        assert report.exit_code == 1, place
        # Without its last fact a run is one that goes on, which no auditor takes unasked.
        assert report.codes & {"FACT_GAP", "CLOSURE_MISMATCH", "RUN_OPEN"}, (place, report.codes)


def test_a_fact_left_out_and_the_others_numbered_anew_contradicts_the_closure() -> None:
    def drop(forge: Forge) -> None:
        forge.facts.pop(2)
        for number, fact in enumerate(forge.facts, 1):
            fact["no"] = number

    assert "CLOSURE_MISMATCH" in check(bent(drop).build()).codes


def test_each_false_claim_is_found_although_the_server_signed_it() -> None:
    false = {
        "RETRIEVED_ONLY_FROM": [],
        "RETRIEVALS": {"allowed": 0, "denied": 0, "failed": 0},
        "DECISIONS": {"POLICY": {"BLOCKED": 1}},
        "EVALUATIONS": [],
        "BREACHES": 1,
        "INCIDENTS": 0,
        "PREVENTIONS": True,
        "LESSONS": None,
        "SNAPSHOT": None,
        "STEPS": 1,
    }
    true = small_run().claims()
    assert [claim["claim"] for claim in true] == list(false)
    for place, (name, value) in enumerate(false.items()):

        def lie(manifest: dict[str, Any], at: int = place, told: Any = value) -> None:
            manifest["predicate"]["claims"][at]["value"] = told

        assert check(small_run().build(bend_manifest=lie)).codes == {"CLAIM_MISMATCH"}, name

        def hide(manifest: dict[str, Any], at: int = place) -> None:
            manifest["predicate"]["claims"].pop(at)

        assert check(small_run().build(bend_manifest=hide)).codes == {"CLAIM_MISMATCH"}, name


def test_claims_count_every_kind_of_fact_late_ones_too() -> None:
    forge = small_run(closed=False)
    forge.facts.clear()
    forge.traces.clear()
    forge.chains.clear()
    forge.values.clear()
    decided = {"decision_type": "POLICY", "decision_outcome": "BLOCKED", "snapshot_id": "snap_1"}
    for kind, body in (
        ("decision", decided),
        ("decision", decided),
        ("decision", decided | {"decision_type": "MEMORY", "decision_outcome": "NONE"}),
        ("breach", {}),
        ("prevention", {}),
        ("incident", {}),
        ("lesson", {}),
    ):
        forge.fact(kind, body)
    forge.fact("breach", {}, to="late")
    forge.context.clear()
    forge.close()
    report = check(forge.build())
    claims = {claim["claim"]: claim["value"] for claim in report.as_json()["claims"]}
    assert report.verdict == "VERIFIED", report.failures
    assert claims["DECISIONS"] == {"POLICY": {"BLOCKED": 2}, "MEMORY": {"NONE": 1}}
    assert claims["SNAPSHOT"] == "snap_1"
    counts = [claims[name] for name in ("BREACHES", "PREVENTIONS", "INCIDENTS", "LESSONS")]
    assert counts == [2, 1, 1, 1]


def test_a_statement_of_an_unknown_type_is_proved_counted_and_named() -> None:
    forge = small_run()
    closing = forge.facts.pop()
    forge.fact("weather", {"sun": True})
    forge.close()
    assert closing["type"] == forge.facts[-1]["type"]
    report = check(forge.build())
    assert report.verdict == "VERIFIED"
    assert report.warnings == ["1 statements of type weather are proved and not interpreted"]


def test_the_result_has_one_documented_shape() -> None:
    page = (FOLDER.parent / "verifier.md").read_text()
    members = [
        "verdict", "tenant", "run", "checkpoint", "key_id", "completeness", "facts", "late", "steps",
        "values", "claims", "checks", "failures", "warnings", "duration_ms",
    ]  # fmt: skip
    for case in (CASES[0], CASES[1], Case("no bundle", b"{}\n")):
        result = check_case(case).as_json()
        assert sorted(result) == sorted(members)
        assert set(result["values"]) == {"intact", "erased", "tampered", "withheld"}
        for failure in result["failures"]:
            assert set(failure) == {"code", "check", "line", "fact", "detail"}
        json.dumps(result)
    of_archives = [*members, "archive", "epoch", "from", "to", "runs", "root"]
    of_archives.remove("run")
    for case in (ARCHIVE_CASES[0], Case("no archive", b'{"archive":1}\n')):
        assert sorted(check_case(case).as_json()) == sorted(of_archives)
    assert [name for name in of_archives if f"`{name}`" not in page] == []
    assert [name for name in members if f"`{name}`" not in page] == []
    codes = set(re.findall(r'fail\(\s*\w+,\s*"([A-Z_]+)"', VERIFIER_FILE.read_text()))
    assert [code for code in sorted(codes | {"UNREADABLE"}) if f"`{code}`" not in page] == []


def test_values_that_are_not_given_are_withheld_and_no_failure() -> None:
    forge = small_run()
    forge.values[1:] = []
    report = check(forge.build())
    assert report.verdict == "VERIFIED"
    assert report.figures["values"] == {"intact": 0, "erased": 0, "tampered": 0, "withheld": 3}


def test_a_statement_of_another_spelling_is_found_when_the_auditor_is_strict() -> None:
    def space(lines: dict[str, list[str]]) -> None:
        lines["facts"][0] = lines["facts"][0].replace(":", ": ", 1)

    assert "NOT_CANONICAL" in check(small_run().build(bend_lines=space), strict=True).codes
    assert "NOT_CANONICAL" not in check(small_run().build(bend_lines=space)).codes


def test_the_embedded_key_is_trusted_only_when_somebody_says_so() -> None:
    data = small_run().build()
    assert check(data, keys=()).codes == {"NO_TRUSTED_KEY"}
    assert check(data, keys=(), trust_embedded_key=True).verdict == "VERIFIED"


# --- checkpoints, read by the text of C2SP alone -------------------------------------------------------


def read_c2sp_note(text: str, vkey: str) -> list[str]:
    """Return the lines of a signed note, read by c2sp.org/signed-note and verified under one key."""
    name, key_hash, key_data = vkey.split("+", 2)
    key = base64.b64decode(key_data)
    assert key[0] == 0x01
    assert hashlib.sha256(name.encode() + b"\x0a" + key).digest()[:4].hex() == key_hash
    # "The text ... ends in a newline, is followed by an empty line, and then by signature lines."
    split = text.rindex("\n\n")
    body, signatures = text[: split + 1], text[split + 2 :]
    assert signatures.endswith("\n")
    good = 0
    for line in signatures.splitlines():
        em_dash, signer, encoded = line.split(" ")
        assert em_dash == "\u2014"
        signature = base64.b64decode(encoded)
        if signer == name and signature[:4].hex() == key_hash:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], body.encode())
            good += 1
    assert good == 1
    return body.splitlines()


def test_checkpoints_are_what_the_c2sp_text_says() -> None:
    hashes = [merkle.leaf(bytes([number])) for number in range(8)]
    root = merkle.root(hashes)
    signed = note.sign(Checkpoint("hoc.example/t/1", 8, root).text(), name="hoc.example/t/1", key=KEY)
    lines = read_c2sp_note(signed, KEY.vkey("hoc.example/t/1"))
    # tlog-checkpoint: origin, decimal size without leading zeros, base64 of the root; here nothing else.
    assert lines == ["hoc.example/t/1", "8", base64.b64encode(root).decode()]
    committed = json.loads((FOLDER / "notes.json").read_text())
    assert read_c2sp_note(committed["note"], committed["vkey"])[1] == "8"
    bundled = json.loads(small_run().build().split(b"\n")[0])
    assert read_c2sp_note(bundled["checkpoint"], bundled["vkeys"][0])[0] == small_run().origin


# --- an exported log ----------------------------------------------------------------------------------


def write_log(
    folder: Path, count: int, *, archived: dict[str, Any] | None = None, table: str | None = "log_archives"
) -> list[bytes]:
    """Write a log of so many entries in the layout of tlog-tiles, by the product's own tiles.

    Its last entry but one may say how far the log was archived.
    """
    entries = [dumps({"tenant": "t", "fact": f"f{number}"}) for number in range(count)]
    if archived is not None:
        entries[-2] = dumps(
            {"tenant": "t", "fact": "a", "type": "log.archived", "table": table, "body": archived}
        )
    hashes = [merkle.leaf(entry.encode()) for entry in entries]
    growth = tiles.grow(0, {}, hashes)
    for tile, data in growth.tiles.items():
        width = len(data) // 32
        write_tile(folder, str(tile.level), tile.tile_no, width, data)
    for number in range(-(-count // 256)):
        part = entries[number * 256 : (number + 1) * 256]
        write_tile(folder, "entries", number, len(part), tiles.entry_bundle(part))
    signed = note.sign(Checkpoint("o/t/1", count, growth.root).text(), name="o/t/1", key=KEY)
    (folder / "checkpoint").write_text(signed)
    return hashes


def write_tile(folder: Path, level: str, number: int, width: int, data: bytes) -> None:
    """Write one tile under its name."""
    name = tiles.format_number(number) + ("" if width == 256 else f".p/{width}")
    place = folder / "tile" / level / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def check_log(folder: Path, **options: Any) -> Any:
    """Return the verifier's report on an exported log."""
    keys = (verifier.parse_vkey(KEY.vkey("o/t/1")),)
    return verifier.verify_log(folder, verifier.Options(keys=keys, **options))


def test_an_exported_log_verifies_and_continues_an_older_checkpoint(tmp_path: Path) -> None:
    hashes = write_log(tmp_path, 600)
    old = note.sign(Checkpoint("o/t/1", 300, merkle.root(hashes[:300])).text(), name="o/t/1", key=KEY)
    report = check_log(tmp_path, old=old, strict=True)
    assert (report.verdict, report.figures["facts"]) == ("VERIFIED", 600), report.failures


def test_each_altered_file_of_an_exported_log_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, 600)
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        kept = file.read_bytes()
        file.write_bytes(kept[:-3] + bytes([kept[-3] ^ 1]) + kept[-2:])
        assert check_log(tmp_path).exit_code in (1, 2), file
        file.unlink()
        assert check_log(tmp_path).exit_code in (1, 2), file
        file.write_bytes(kept)
    assert check_log(tmp_path).verdict == "VERIFIED"


def test_entries_may_be_missing_where_the_log_says_that_it_was_archived(tmp_path: Path) -> None:
    whole, other, epoch, system = (tmp_path / name for name in ("whole", "other", "epoch", "system"))
    write_log(whole, 600, archived={"epoch": 1, "to_idx": 256})
    (whole / "tile" / "entries" / "000").unlink()
    report = check_log(whole, strict=True)
    assert (report.verdict, report.figures["facts"]) == ("VERIFIED", 600), report.failures
    assert report.warnings == ["256 entries below 256 are archived and not here; the tree has their hashes"]
    # Beyond what was archived nothing may be missing, nor of another epoch's or log's, nor without its tile.
    (whole / "tile" / "entries" / "001").unlink()
    assert check_log(whole).codes == {"LINE_COUNT"}
    write_log(epoch, 600, archived={"epoch": 2, "to_idx": 256})
    (epoch / "tile" / "entries" / "000").unlink()
    assert check_log(epoch).codes == {"LINE_COUNT"}
    write_log(system, 600, archived={"epoch": 1, "to_idx": 256}, table=None)
    (system / "tile" / "entries" / "000").unlink()
    assert check_log(system).codes == {"LINE_COUNT"}
    write_log(other, 600, archived={"epoch": 1, "to_idx": 512})
    for level in ("entries", "0"):
        (other / "tile" / level / "000").unlink()
    assert "LINE_COUNT" in check_log(other).codes
    (other / "tile" / "0" / "000").write_bytes(bytes(256 * 32))
    assert "ROOT_MISMATCH" in check_log(other).codes


def test_a_log_without_its_tail_or_a_run_is_found_by_an_older_checkpoint(tmp_path: Path) -> None:
    hashes = write_log(tmp_path, 300)
    longer = note.sign(Checkpoint("o/t/1", 301, bytes(32)).text(), name="o/t/1", key=KEY)
    assert "ROLLED_BACK" in check_log(tmp_path, old=longer).codes
    # A server with the key that left a run out and signed the rest.
    before = [*hashes[:10], merkle.leaf(b"a run"), *hashes[10:]]
    kept = note.sign(Checkpoint("o/t/1", 200, merkle.root(before[:200])).text(), name="o/t/1", key=KEY)
    assert "INCONSISTENT" in check_log(tmp_path, old=kept).codes
    same = note.sign(Checkpoint("o/t/1", 300, merkle.root(before[:300])).text(), name="o/t/1", key=KEY)
    assert "ROOT_MISMATCH" in check_log(tmp_path, old=same).codes


# --- the file itself ----------------------------------------------------------------------------------


def test_the_verifier_is_one_file_for_python_3_9_and_cryptography() -> None:
    tree = ast.parse(VERIFIER_FILE.read_text(), feature_version=(3, 9))
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    imported |= {
        str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names | {"cryptography"}
    assert not imported & {"os", "socket", "urllib", "http", "subprocess", "ssl"}
    longest = max(
        (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    )
    assert longest <= 60


def test_alone_in_an_empty_folder_it_verifies_a_bundle(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    site = Path(cryptography.__file__).parents[1]
    for name in ("cryptography", "cffi", *(path.name for path in site.glob("_cffi_backend*"))):
        if (site / name).exists():
            (library / name).symlink_to(site / name)
    folder = tmp_path / "alone"
    folder.mkdir()
    (folder / "hoc_verify.py").write_bytes(VERIFIER_FILE.read_bytes())
    (folder / "run.hocproof").write_bytes(small_run().build())
    command = [sys.executable, "-S", "hoc_verify.py", "run.hocproof", "--key", small_run().vkey, "--json"]
    ended = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["verdict"] == "VERIFIED"


def test_wrong_usage_ends_with_2_and_a_key_may_come_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, keys = tmp_path / "run.hocproof", tmp_path / "keys"
    file.write_bytes(small_run().build())
    keys.write_text(small_run().vkey + "\n")
    assert verifier.main([str(file), "--key", str(keys)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "VERIFIED"
    assert verifier.main([str(tmp_path / "nothing")]) == 2
    for wrong in (
        [],
        [str(file), "--log", str(tmp_path)],
        [str(file), "--key", "x"],
        [str(file), "--quorum", "1"],
    ):
        with pytest.raises(SystemExit) as ended:
            verifier.main(wrong)
        assert ended.value.code == 2


def test_a_bundle_line_opens_only_its_own_commitment() -> None:
    line = json.loads(bundle.intact_line("c1:x", "00" * 32, {"a": 1e16}))
    assert verifier.commitment(line["salt"], line["value"]) != verifier.commitment("11" * 32, line["value"])
    assert verifier.commitment("00", {}) is None
    assert verifier.canonical({"b": 1e16, "a": [1e-7, -0.0, 1.5]}) == dumps(
        {"b": 1e16, "a": [1e-7, -0.0, 1.5]}
    )
