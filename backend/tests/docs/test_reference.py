"""Docs: operations, errors, settings, tables and states are documented, and what is documented exists."""

from __future__ import annotations

import ast
import re

import pytest

from app.api.errors import STATUS_OF_KIND
from app.api.openapi import handlers_registry
from app.api.routing import API_ROOT
from app.api.table import ROUTES
from app.bootstrap import HANDLERS
from app.db.catalogue import metadata
from app.domains.knowledge.models.vocabulary import (
    KnowledgePlaneLifecycleState,
    LifecycleAction,
)
from app.domains.retrieval.errors import access_refused
from app.domains.retrieval.models import Outcome, Reason
from app.hoc_spine.coordinators import run_evidence
from app.hoc_spine.operation_registry import Operation
from app.settings import Settings
from tests.docs.error_codes import error_codes, last_name, module_names, module_tree
from tests.docs.pages import read, rows, spans, word

OPERATIONS = {operation.name: operation for operation in handlers_registry()}
OPERATION_ROWS = {word(row["operation"]): row for row in rows(read("docs/operations.md"), "operation")}
ERRORS = read("docs/errors.md")
PROOF_MODULES = ("app.domains.traces.engines.verification", "app.domains.logs.engines.completeness")
# Where every upper-case word with an underscore is a code.
ROW_MODULES = (
    "app.domains.logs.engines.recorded",
    "app.domains.logs.engines.row_check",
    "app.hoc_spine.coordinators.run_judgement",
)


def documented(column: str) -> set[str]:
    """Return the first cells of the error page's tables under a head."""
    found = [word(row[column]) for row in rows(ERRORS, column)]
    assert len(found) == len(set(found)), f"twice under {column}"
    return set(found)


# --- operations ---------------------------------------------------------------------------------------


def test_the_bootstrap_registers_every_handler_module() -> None:
    registered = {operation.name for module in HANDLERS for operation in module.OPERATIONS}
    assert registered == OPERATIONS.keys()


def test_each_operation_has_a_row_and_each_row_an_operation() -> None:
    assert OPERATION_ROWS.keys() == OPERATIONS.keys()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
def test_the_row_of_an_operation_is_true(operation: Operation) -> None:
    row = OPERATION_ROWS[operation.name]
    routes = {f"{r.method} {r.path.removeprefix(API_ROOT)}" for r in ROUTES if r.operation == operation.name}
    assert (row["mode"], row["owner"]) == (operation.mode, operation.owner)
    assert row["scope or door"].strip("`") == (operation.scope or operation.door)
    assert set(re.findall(r"`([^`]+)`", row["route"])) == routes
    assert row["operation"].endswith("¹") == operation.creates
    assert row["does"].endswith(".")


# --- errors -------------------------------------------------------------------------------------------


def test_each_error_code_is_documented_and_each_documented_code_exists() -> None:
    assert documented("code") | documented("job code") == error_codes().keys() | worker_codes()


def worker_codes() -> set[str]:
    """Return the codes that the job loop itself gives to a failed try."""
    calls = (node for node in ast.walk(module_tree("app.hoc_spine.worker")) if isinstance(node, ast.Call))
    return {
        str(call.args[2].value)
        for call in calls
        if ast.unparse(call.func) == "self._fail" and isinstance(call.args[2], ast.Constant)
    }


def test_each_error_code_has_its_status() -> None:
    codes = error_codes()
    for row in rows(ERRORS, "code"):
        statuses = {int(status) for status in row["status"].split(", ")}
        assert statuses == codes[word(row["code"])], row["code"]


def test_each_error_says_what_to_do() -> None:
    for row in rows(ERRORS, "code"):
        assert row["meaning"], row["code"]
        assert row["what to do"], row["code"]


def test_each_reason_of_an_access_is_documented_with_its_outcome_and_status() -> None:
    assert documented("reason") == {reason.value for reason in Reason}
    for row in rows(ERRORS, "reason"):
        reason, outcome = Reason(word(row["reason"])), Outcome(row["outcome"])
        if outcome is Outcome.ALLOWED:
            assert (reason, row["status"]) == (Reason.OK, "200")
            continue
        error = access_refused(outcome, reason, evidence_id="ev_1")
        assert int(row["status"]) == STATUS_OF_KIND[error.kind], row


def test_each_source_code_of_evidence_is_documented() -> None:
    assert documented("source code") == {run_evidence.FAILED}


def test_each_failure_code_of_a_proof_is_documented() -> None:
    assert documented("proof code") == proof_codes()


def proof_codes() -> set[str]:
    """Return the failure codes in the source of the verifications."""
    found: set[str] = set()
    for node in (part for module in PROOF_MODULES for part in ast.walk(module_tree(module))):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            given += node.args[:1] if ast.unparse(node.func) == "_Failure" else []
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code":
            given = [node.value]
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
            given = [node.elts[1]]
        texts = [value.value for value in given if isinstance(value, ast.Constant)]
        found |= {text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Z_]+", text)}
    for node in (part for module in ROW_MODULES for part in ast.walk(module_tree(module))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if re.fullmatch(r"[A-Z]+_[A-Z_]+", node.value) else set()
    # The tuple of what is answered for a failed chain: a status, no code.
    return found - {"FAILED"}


def test_each_code_of_start_up_is_documented() -> None:
    codes = set()
    for node in (part for module in module_names() for part in ast.walk(module_tree(module))):
        if isinstance(node, ast.Call) and last_name(node.func) == "SchemaError":
            assert isinstance(node.args[0], ast.Constant)
            codes.add(str(node.args[0].value))
    for node in ast.walk(module_tree("app.cli.database")):
        # Code and message of what keeps a database from serving.
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            codes |= (
                {str(node.value.elts[0].value)} if isinstance(node.value.elts[0], ast.Constant) else set()
            )
    assert documented("start code") == codes


# --- settings -----------------------------------------------------------------------------------------

SETTING_ROWS = {word(row["variable"]): row for row in rows(read("docs/settings.md"), "variable")}


def test_each_setting_is_documented_and_each_documented_setting_exists() -> None:
    assert SETTING_ROWS.keys() == {f"HOC_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_default_of_a_setting_is_true(name: str) -> None:
    default = getattr(Settings.model_construct(), name)
    if default is None or default == ():
        shown = "unset"
    elif isinstance(default, bool):
        shown = f"`{str(default).lower()}`"
    else:
        shown = f"`{default}`"
    assert SETTING_ROWS[f"HOC_{name.upper()}"]["default"] == shown


# --- tables and states --------------------------------------------------------------------------------


def test_each_table_is_named_on_the_page_of_persistence() -> None:
    text = read("docs/persistence.md")
    named = set(spans(text))
    assert metadata.tables.keys() <= named
    in_tables = {name for row in rows(text, "data") for name in re.findall(r"`([a-z_]+)`", row["tables"])}
    assert in_tables <= metadata.tables.keys()


def test_each_state_and_action_of_a_plane_is_in_the_glossary() -> None:
    text = read("docs/glossary.md")
    states = {row["state"]: int(row["value"]) for row in rows(text, "state")}
    assert states == {state.name: state.value for state in KnowledgePlaneLifecycleState}
    assert {action.value for action in LifecycleAction} <= set(spans(text))


def test_the_glossary_is_in_order() -> None:
    words = [row["word"] for row in rows(read("docs/glossary.md"), "word")]
    assert words == sorted(words)
    assert len(words) == len(set(words))
