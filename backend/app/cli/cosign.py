"""L2: `hoc log cosign`: show a witness the newest checkpoint, and store what it signs (C2SP tlog-witness)."""

import base64
from typing import Annotated, Any

import typer

from app.cli.options import AsJson, TenantId
from app.cli.output import fail, show
from app.cli.session import Session
from app.domains.logs.models.tree import Cosignatures

TIMEOUT_SECONDS = 30.0
_DASH = "\N{EM DASH} "


def cosign_log(
    tenant_id: TenantId,
    witness: Annotated[str, typer.Option("--witness", help="The submission prefix of the witness, a URL.")],
    as_json: AsJson = False,
) -> None:
    """Have a witness of HOC_WITNESS_KEYS_FILE cosign a tenant's newest checkpoint, and store that."""
    # Loaded by the one command that calls out.
    import httpx

    with Session() as session, httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        (newest, *_) = session.call("log.checkpoints.list", {"limit": 1}, tenant_id=tenant_id).items or [None]
        if newest is None:
            fail("CHECKPOINT_NOT_FOUND: nothing has been signed yet")
        note = session.call("log.checkpoint", {"size": newest.size}, tenant_id=tenant_id).content

        def submit(old: int) -> Any:
            proof: list[str] = []
            if 0 < old < newest.size:
                span = {"from": old, "to": newest.size}
                proof = session.call("log.consistency", span, tenant_id=tenant_id).hashes
            lines = [f"old {old}", *(base64.b64encode(bytes.fromhex(one)).decode() for one in proof)]
            body = "".join(f"{line}\n" for line in lines) + "\n" + note
            try:
                return http.post(f"{witness.rstrip('/')}/add-checkpoint", content=body.encode())
            except httpx.HTTPError as error:
                fail(f"WITNESS_UNREACHABLE: {type(error).__name__}")

        reply = submit(0)
        # A witness that has seen the log says how far, and wants the proof from there.
        known = reply.text.strip()
        if reply.status_code == httpx.codes.CONFLICT and known.isdecimal() and int(known) <= newest.size:
            reply = submit(int(known))
        if reply.status_code != httpx.codes.OK:
            fail(f"WITNESS_REFUSED: HTTP {reply.status_code}")
        lines = "".join(f"{line}\n" for line in reply.text.splitlines() if line.startswith(_DASH))
        payload = Cosignatures(size=newest.size, content=lines.encode())
        done = session.dispatch("log.cosign", payload, tenant_id=tenant_id)
    show(done, as_json=as_json)
