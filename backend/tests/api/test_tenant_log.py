"""The tenant's log over HTTP: what a stranger with the verifier key needs to check it, and no more."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.testclient import TestClient

from app.hoc_spine.coordinators.log_files import write_new_key
from tests.factories.databases import Databases, Dialect
from tests.factories.logs import LogWorld, standing_world
from tests.factories.tenants import Tenant, make_tenant

LOG = "/api/v1/log"


@pytest.fixture(scope="module")
def world(
    databases: Databases, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LogWorld]:
    """A tenant whose log has two checkpoints and more facts than one tile."""
    folder = tmp_path_factory.mktemp("log")
    write_new_key(folder / "log-key.pem")
    with standing_world(databases.new(dialect), folder, facts=20) as made:
        made.tenant.headers()
        made.repeat_leaves(300)
        made.sequence()
        yield made


@pytest.fixture(scope="module")
def http(world: LogWorld) -> Iterator[TestClient]:
    """A client with a key of the tenant."""
    from app.main import create_app

    with TestClient(create_app(world.spine), raise_server_exceptions=False) as client:
        client.headers.update(world.tenant.headers(scopes=("logs:read",)))
        yield client


@pytest.fixture(scope="module")
def stranger(world: LogWorld) -> Tenant:
    """Another tenant of the same server, whose log is empty."""
    return make_tenant(world.spine)


def ok(reply: httpx.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return reply.json()


def code(reply: httpx.Response, status: int) -> str:
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    return str(reply.json()["code"])


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def climb(index: int, size: int, found: bytes, path: list[bytes]) -> bytes:
    """Return the root of an audit path, by the recursion of RFC 6962 read backwards."""
    if size == 1:
        assert path == []
        return found
    middle = 1
    while middle * 2 < size:
        middle *= 2
    if index < middle:
        left = climb(index, middle, found, path[:-1])
        return hashlib.sha256(b"\x01" + left + path[-1]).digest()
    right = climb(index - middle, size - middle, found, path[:-1])
    return hashlib.sha256(b"\x01" + path[-1] + right).digest()


def open_checkpoint(text: str, vkey: str) -> tuple[str, int, bytes]:
    """Read a checkpoint with nothing but its verifier key."""
    name, _, encoded = vkey.split("+", 2)
    body, _, lines = text.partition("\n\n")
    (line,) = lines.splitlines()
    assert line.startswith(f"— {name} ")
    raw = base64.b64decode(line.rsplit(" ", 1)[1], validate=True)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded, validate=True)[1:])
    key.verify(raw[4:], (body + "\n").encode())
    origin, size, root = body.split("\n")
    return origin, int(size), base64.b64decode(root, validate=True)


def test_the_status_says_how_far_the_log_is(http: TestClient, world: LogWorld) -> None:
    status = ok(http.get(LOG))
    assert status.keys() == {
        "origin", "epoch", "state", "halted_reason", "size", "signed_size", "min_index", "pending", "vkeys",
    }  # fmt: skip
    assert (status["origin"], status["epoch"], status["state"]) == (world.origin, 1, "ACTIVE")
    assert status["size"] == status["signed_size"] > 300
    assert (status["min_index"], status["pending"]) == (0, 0)
    (vkey,) = status["vkeys"]
    assert [item["vkey"] for item in ok(http.get(f"{LOG}/keys"))["items"]] == [vkey]
    assert vkey.split("+")[1] == ok(http.get(f"{LOG}/keys"))["items"][0]["key_id"]


def test_a_checkpoint_opens_with_the_verifier_key(http: TestClient, world: LogWorld) -> None:
    status = ok(http.get(LOG))
    reply = http.get(f"{LOG}/checkpoint")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "private, no-cache"
    origin, size, root = open_checkpoint(reply.text, status["vkeys"][0])
    assert (origin, size) == (world.origin, status["size"])
    assert ok(http.get(f"{LOG}/checkpoints"))["items"][0]["root"] == root.hex()


def test_checkpoints_are_listed_newest_first_and_read_by_size(http: TestClient) -> None:
    listed = ok(http.get(f"{LOG}/checkpoints"))["items"]
    sizes = [item["size"] for item in listed]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) >= 2
    vkey = ok(http.get(LOG))["vkeys"][0]
    for item in listed:
        text = http.get(f"{LOG}/checkpoints/{item['size']}").text
        assert open_checkpoint(text, vkey) == (item["origin"], item["size"], bytes.fromhex(item["root"]))
    page = ok(http.get(f"{LOG}/checkpoints", params={"limit": 1}))
    following = ok(http.get(f"{LOG}/checkpoints", params={"limit": 1, "cursor": page["next_cursor"]}))
    assert [page["items"][0]["size"], following["items"][0]["size"]] == sizes[:2]
    for unknown in ("0", "7777", "x", "-1", "1.5", "99999999999999999999"):
        assert code(http.get(f"{LOG}/checkpoints/{unknown}"), 404) == "CHECKPOINT_NOT_FOUND"


def test_a_client_rebuilds_the_signed_root_from_tiles_and_entries_alone(http: TestClient) -> None:
    status = ok(http.get(LOG))
    size = status["size"]
    hashes, entries = b"", b""
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        name = f"{number:03d}" + ("" if width == 256 else f".p/{width}")
        tile = http.get(f"{LOG}/tile/0/{name}")
        assert (tile.status_code, tile.headers["content-type"]) == (200, "application/octet-stream")
        assert tile.headers["cache-control"] == "private, max-age=31536000, immutable"
        hashes += tile.content
        entries += http.get(f"{LOG}/tile/entries/{name}").content
    leaves = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    statements = []
    while entries:
        length = int.from_bytes(entries[:2], "big")
        statements.append(entries[2 : 2 + length])
        entries = entries[2 + length :]
    assert [leaf(statement) for statement in statements] == leaves
    from app.kernel import merkle

    _, signed, root = open_checkpoint(http.get(f"{LOG}/checkpoint").text, status["vkeys"][0])
    assert (len(leaves), merkle.root(leaves)) == (signed, root)
    assert http.get(f"{LOG}/tile/1/000.p/1").content == merkle.root(leaves[:256])


def test_a_partial_tile_is_served_under_every_width_it_had(http: TestClient) -> None:
    full = http.get(f"{LOG}/tile/0/000").content
    for width in (1, 7, 255):
        assert http.get(f"{LOG}/tile/0/000.p/{width}").content == full[: 32 * width]


@pytest.mark.parametrize(
    "name",
    ["8/000", "-1/000", "x/000", "0/0", "0/1000", "0/x000/000", "0/000.p/256", "0/000.p/0", "0/000.p/x",
     "entries/abc", "0/001/002", "0/000.p/1/2"],
)  # fmt: skip
def test_what_names_no_tile_is_refused(http: TestClient, name: str) -> None:
    assert code(http.get(f"{LOG}/tile/{name}"), 400) == "INVALID_TILE"


@pytest.mark.parametrize(
    "name", ["0/x009/999", "0/001", "0/002.p/1", "1/000", "1/000.p/2", "7/000.p/1", "entries/001"]
)
def test_a_tile_that_the_log_has_not_reached_is_not_found(http: TestClient, name: str) -> None:
    assert code(http.get(f"{LOG}/tile/{name}"), 404) == "TILE_NOT_FOUND"


def test_a_fact_shows_its_statement_and_place(http: TestClient, world: LogWorld) -> None:
    proof = ok(http.get(f"{LOG}/proofs/inclusion", params={"index": 3}))
    fact_id = world.fact_at(3)
    fact = ok(http.get(f"{LOG}/facts/{fact_id}"))
    assert (fact["fact_id"], fact["index"], fact["status"]) == (fact_id, 3, "INCLUDED")
    assert fact["leaf_hash"] == leaf(fact["statement"].encode()).hex() == proof["leaf_hash"]
    for unknown in ("fct_nothing", "x", "a b", "%00"):
        assert code(http.get(f"{LOG}/facts/{unknown}"), 404) == "FACT_NOT_FOUND"


@pytest.mark.parametrize("index", [0, 1, 255, 256, 300])
def test_inclusion_proves_an_entry_under_the_signed_root(
    http: TestClient, world: LogWorld, index: int
) -> None:
    by_index = ok(http.get(f"{LOG}/proofs/inclusion", params={"index": index}))
    by_fact = ok(http.get(f"{LOG}/proofs/inclusion", params={"fact_id": world.fact_at(index)}))
    assert by_fact == by_index
    path = [bytes.fromhex(text) for text in by_index["hashes"]]
    root = climb(index, by_index["size"], bytes.fromhex(by_index["leaf_hash"]), path)
    vkey = ok(http.get(LOG))["vkeys"][0]
    assert root == open_checkpoint(http.get(f"{LOG}/checkpoint").text, vkey)[2]
    assert root.hex() == by_index["root"]


def test_inclusion_as_text_is_a_proof_of_its_own(http: TestClient) -> None:
    reply = http.get(f"{LOG}/proofs/inclusion", params={"index": 5, "format": "tlog-proof"})
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    head, _, rest = reply.text.partition("\n\n")
    first, second, *hashes = head.split("\n")
    assert (first, second) == ("c2sp.org/tlog-proof@v1", "index 5")
    vkey = ok(http.get(LOG))["vkeys"][0]
    _, size, root = open_checkpoint(rest, vkey)
    tile = http.get(f"{LOG}/tile/0/000").content
    path = [base64.b64decode(text, validate=True) for text in hashes]
    assert climb(5, size, tile[5 * 32 : 6 * 32], path) == root


def test_proofs_of_earlier_sizes_are_against_their_own_root(http: TestClient) -> None:
    old = ok(http.get(f"{LOG}/checkpoints"))["items"][-1]
    proof = ok(http.get(f"{LOG}/proofs/inclusion", params={"index": 0, "size": old["size"]}))
    assert (proof["size"], proof["root"]) == (old["size"], old["root"])
    text = {"index": 0, "size": old["size"], "format": "tlog-proof"}
    assert http.get(f"{LOG}/proofs/inclusion", params=text).status_code == 200
    # No checkpoint was signed at this size, so there is none to carry.
    odd = {"index": 0, "size": old["size"] - 1, "format": "tlog-proof"}
    assert code(http.get(f"{LOG}/proofs/inclusion", params=odd), 404) == "CHECKPOINT_NOT_FOUND"


@pytest.mark.parametrize(
    ("query", "status", "expected"),
    [
        ({}, 400, "INVALID_QUERY"),
        ({"index": 1, "fact_id": "fct_x"}, 400, "INVALID_QUERY"),
        ({"index": "x"}, 400, "INVALID_QUERY"),
        ({"index": -1}, 400, "INVALID_QUERY"),
        ({"index": 1, "format": "xml"}, 400, "INVALID_QUERY"),
        ({"index": 1, "other": 1}, 400, "INVALID_QUERY"),
        ({"index": 1, "size": 0}, 400, "INVALID_TREE_SIZE"),
        ({"index": 1, "size": 10**9}, 400, "INVALID_TREE_SIZE"),
        ({"index": 10**9}, 400, "INVALID_INDEX"),
        ({"index": 5, "size": 5}, 400, "INVALID_INDEX"),
        ({"fact_id": "fct_x"}, 404, "FACT_NOT_FOUND"),
    ],
)
def test_a_question_for_no_proof_is_refused(
    http: TestClient, query: dict[str, Any], status: int, expected: str
) -> None:
    assert code(http.get(f"{LOG}/proofs/inclusion", params=query), status) == expected


def test_a_fact_beyond_the_size_is_not_integrated(http: TestClient, world: LogWorld) -> None:
    query = {"fact_id": world.fact_at(9), "size": 9}
    assert code(http.get(f"{LOG}/proofs/inclusion", params=query), 409) == "NOT_INTEGRATED"


def test_consistency_proves_that_one_checkpoint_continues_another(http: TestClient) -> None:
    from app.kernel import merkle

    new, *_, old = ok(http.get(f"{LOG}/checkpoints"))["items"]
    proof = ok(http.get(f"{LOG}/proofs/consistency", params={"from": old["size"], "to": new["size"]}))
    assert proof.keys() == {"from", "to", "hashes"}
    path = [bytes.fromhex(text) for text in proof["hashes"]]
    roots = (bytes.fromhex(old["root"]), bytes.fromhex(new["root"]))
    assert merkle.is_consistent(old["size"], new["size"], *roots, path)
    same = ok(http.get(f"{LOG}/proofs/consistency", params={"from": new["size"], "to": new["size"]}))
    assert same["hashes"] == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"from": 0, "to": 5}, "INVALID_TREE_SIZE"),
        ({"from": 5, "to": 4}, "INVALID_TREE_SIZE"),
        ({"from": 1, "to": 10**9}, "INVALID_TREE_SIZE"),
        ({"from": 1}, "INVALID_QUERY"),
        ({"from": -1, "to": 4}, "INVALID_QUERY"),
        ({"from_": 1, "to": 4}, "INVALID_QUERY"),
    ],
)
def test_sizes_that_no_tree_has_are_refused(http: TestClient, query: dict[str, Any], expected: str) -> None:
    assert code(http.get(f"{LOG}/proofs/consistency", params=query), 400) == expected


PATHS = [
    "",
    "/checkpoint",
    "/checkpoints",
    "/checkpoints/1",
    "/keys",
    "/tile/0/000",
    "/tile/entries/000",
    "/facts/fct_x",
    "/proofs/inclusion?index=0",
    "/proofs/consistency?from=1&to=2",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_door_of_the_log_wants_the_scope(world: LogWorld, path: str) -> None:
    from app.main import create_app

    with TestClient(create_app(world.spine)) as client:
        assert code(client.get(LOG + path), 401) == "INVALID_CREDENTIALS"
        weak = world.tenant.headers(scopes=("runs:read",))
        assert code(client.get(LOG + path, headers=weak), 403) == "INSUFFICIENT_SCOPE"


def test_another_tenant_sees_its_own_empty_log_and_nothing_of_this_one(
    http: TestClient, world: LogWorld, stranger: Tenant
) -> None:
    other = stranger.headers(scopes=("logs:read",))
    status = ok(http.get(LOG, headers=other))
    assert (status["size"], status["origin"]) == (0, f"hoc.test/{stranger.tenant_id}/1")
    expected = {
        "/checkpoint": (404, "CHECKPOINT_NOT_FOUND"),
        f"/checkpoints/{ok(http.get(LOG))['size']}": (404, "CHECKPOINT_NOT_FOUND"),
        "/tile/0/000": (404, "TILE_NOT_FOUND"),
        "/tile/0/000.p/1": (404, "TILE_NOT_FOUND"),
        "/tile/entries/000.p/1": (404, "TILE_NOT_FOUND"),
        f"/facts/{world.fact_at(0)}": (404, "FACT_NOT_FOUND"),
        f"/proofs/inclusion?fact_id={world.fact_at(0)}": (404, "FACT_NOT_FOUND"),
        "/proofs/inclusion?index=0": (400, "INVALID_INDEX"),
        "/proofs/consistency?from=1&to=1": (400, "INVALID_TREE_SIZE"),
    }
    for path, (status_code, wanted) in expected.items():
        assert code(http.get(LOG + path, headers=other), status_code) == wanted, path
    assert ok(http.get(f"{LOG}/checkpoints", headers=other))["items"] == []


def test_a_new_fact_waits_then_is_in_the_tree_then_under_a_checkpoint(
    world: LogWorld, stranger: Tenant
) -> None:
    from tests.factories.worlds import start_run

    start_run(stranger)
    fact_id = world.facts_of(stranger.tenant_id)[0]
    assert stranger.call("log.fact", {"fact_id": fact_id}).status == "PENDING"
    assert stranger.dispatch("log.inclusion", {"fact_id": fact_id}).error_code == "NOT_INTEGRATED"
    assert stranger.call("log.keys").items[0].vkey.startswith(f"hoc.test/{stranger.tenant_id}/1+")
    world.sequence(sign=False)
    assert stranger.call("log.fact", {"fact_id": fact_id}).status == "INTEGRATED"
    assert stranger.dispatch("log.inclusion", {"fact_id": fact_id}).error_code == "NOT_INTEGRATED"
    world.sequence()
    assert stranger.call("log.fact", {"fact_id": fact_id}).status == "INCLUDED"
    assert stranger.call("log.inclusion", {"fact_id": fact_id}).index == 0
    size = stranger.call("log.checkpoints.list").items[0].size
    assert stranger.call("log.consistency", {"from": size, "to": size}).hashes == []
    assert stranger.call("log.tile", {"level": "0", "tile": f"000.p/{size}"}).content
