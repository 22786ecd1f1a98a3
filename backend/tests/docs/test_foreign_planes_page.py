"""Docs: the page of foreign planes shows every key, and its examples are configurations."""

from __future__ import annotations

import json
import re
from typing import get_args

from app.domains.knowledge.engines.config_shapes import (
    HttpConfig,
    HttpEndpoint,
    OperationalConfig,
    ParamType,
    SqlConfig,
    SqlTemplate,
    TemplateParam,
)
from tests.docs.pages import read, rows, spans, word

PAGE = read("docs/foreign-planes.md")


def test_each_key_of_a_foreign_plane_is_documented() -> None:
    for header, shape in (("sql key", SqlConfig), ("http key", HttpConfig)):
        shown = {word(row[header]) for row in rows(PAGE, header)}
        assert shown == shape.model_fields.keys() - OperationalConfig.model_fields.keys()
    for part in (SqlTemplate, HttpEndpoint, TemplateParam):
        assert part.model_fields.keys() <= set(spans(PAGE))
    assert set(get_args(ParamType)) <= set(spans(PAGE))


def test_the_examples_are_configurations() -> None:
    sql, http = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    assert SqlConfig.model_validate(sql).templates[0].max_rows == 50
    assert HttpConfig.model_validate(http).endpoints[0].key_fields == ["id"]
