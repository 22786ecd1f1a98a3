"""Docs: what a condition may read, how a plane is configured and what an access may ask are as documented."""

from __future__ import annotations

import json
import re
from typing import get_args

from app.connectors.repository import ListPayload, RepositoryConnector, RetrievePayload, SearchPayload
from app.domains.knowledge.engines.config_shapes import OperationalConfig, RepositoryConfig
from app.domains.policies.engines.conditions import ROOTS, names_at
from app.domains.policies.models.rules import Constraints
from app.domains.policies.models.vocabulary import Effect, RuleKind, RuleScope
from app.domains.retrieval.models import Action
from tests.docs.pages import read, rows, spans, word

PAGE = read("docs/access.md")


def test_each_name_and_member_of_a_condition_is_documented() -> None:
    shown = {word(row["name"]): set(re.findall(r"`([a-z_]+)`", row["members"])) for row in rows(PAGE, "name")}
    names = names_at(RuleKind.ACCESS, ())
    assert shown.keys() == names
    assert shown == {name: set(ROOTS.get(name, {})) for name in names}


def test_each_configuration_key_is_documented_with_its_default() -> None:
    shown = {word(row["key"]): row["default"] for row in rows(PAGE, "key")}
    assert shown.keys() == RepositoryConfig.model_fields.keys()
    for name, field in OperationalConfig.model_fields.items():
        expected = "none" if field.default is None else f"`{json.dumps(field.default)}`"
        assert shown[name] == expected, name
    assert RepositoryConfig().source.kind in shown["source"]


def test_each_action_is_documented_with_its_payload() -> None:
    models = {
        "search": SearchPayload, "query": SearchPayload, "retrieve": RetrievePayload, "list": ListPayload,
    }  # fmt: skip
    assert set(get_args(Action)) == models.keys() == RepositoryConnector.actions
    shown: set[str] = set()
    for row in rows(PAGE, "action"):
        for action in re.findall(r"`([a-z]+)`", row["action"]):
            shown.add(action)
            members = models[action].model_fields.keys()
            assert members <= set(re.findall(r"`([a-z_]+)`", row["payload"])), action
    assert shown == models.keys()


def test_the_words_of_a_rule_are_documented() -> None:
    assert Constraints.model_fields.keys() <= set(spans(PAGE))
    for known in (*Effect, *RuleScope):
        assert re.search(rf"\b{known.value}\b", PAGE), known
