"""The look-up of a search sorts its candidates only where some of them are left out."""

from __future__ import annotations

from hoc_ddl import MAINTENANCE_ROLE, run_ddl

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

KEYS = "string_to_array(p.plane_id || replace(btrim(p.terms), '  ', ' ' || p.plane_id), ' ')"
SORTED = f"""RETURN QUERY SELECT p.artifact_id, p.passage_no, p.term_total, p.terms FROM plane_passages p
        WHERE {KEYS} OPERATOR wanted_keys
        AND p.tenant_id || '' = wanted_tenant AND p.plane_id || '' = wanted_plane
        AND p.gen_from <= wanted_generation AND (p.gen_to IS NULL OR p.gen_to > wanted_generation)
        ORDER BY p.artifact_id COLLATE "C", p.passage_no LIMIT most;"""
ALL = SORTED.replace('ORDER BY p.artifact_id COLLATE "C", p.passage_no LIMIT most', "")


def upgrade() -> None:
    few = f"IF every THEN {ALL.replace('OPERATOR', '@>')} ELSE {ALL.replace('OPERATOR', '&&')} END IF;"
    run_ddl(postgresql=_replacing(f"IF most IS NULL THEN {few} RETURN; END IF;\n            "))


def downgrade() -> None:
    run_ddl(postgresql=_replacing(""))


def _replacing(few: str) -> tuple[str, ...]:
    """Return the DDL that replaces the function as its owner, who needs CREATE on the schema for that."""
    return (
        f"GRANT CREATE ON SCHEMA public TO {MAINTENANCE_ROLE}",
        f"SET ROLE {MAINTENANCE_ROLE}",
        _function(few),
        "RESET ROLE",
        f"REVOKE CREATE ON SCHEMA public FROM {MAINTENANCE_ROLE}",
    )


def _function(few: str) -> str:
    """Return the DDL of the function; owner and grants stay as they are."""
    arguments = (
        "wanted_tenant text, wanted_plane text, wanted_generation integer, wanted_keys text[], every boolean,"
        " most integer"
    )
    columns = "artifact_id text, passage_no integer, term_total integer, terms text"
    any_or_all = (
        f"IF every THEN {SORTED.replace('OPERATOR', '@>')} ELSE {SORTED.replace('OPERATOR', '&&')} END IF;"
    )
    return f"""CREATE OR REPLACE FUNCTION plane_passage_candidates({arguments}) RETURNS TABLE ({columns})
            LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
            SET enable_seqscan = off AS $$ BEGIN
            IF wanted_tenant IS DISTINCT FROM current_setting('hoc.tenant_id', true) THEN RETURN; END IF;
            {few}{any_or_all}
            END $$"""
