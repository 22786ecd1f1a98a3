"""Policies: conditions are CEL; compiled and name-checked when written, judged without ever raising.

A condition is text that a tenant gives, so its work is bounded: 2000 characters, comprehensions two
deep, few additions (they alone make values grow), literal patterns, and before each judgement an upper
bound of its iterations from the sizes of what it is judged over. Beyond a bound it is an error, and an
error never opens a door: the caller says what it means there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domains.policies.engines.condition_text import MACROS, Reading, position, read
from app.domains.policies.errors import InvalidConditionError
from app.domains.policies.models.vocabulary import MAX_CONDITION_LENGTH, Moment, RuleKind

if TYPE_CHECKING:
    import cel

MAX_COMPREHENSION_DEPTH: Final = 2
MAX_ADDITIONS: Final = 32
MAX_ADDITIONS_WITH_COMPREHENSION: Final = 8
MAX_PATTERN_LENGTH: Final = 256
MAX_WORK: Final = 2_000_000
# Compiling a pattern costs up to some ten milliseconds, an ordinary token a tenth of a microsecond.
_PATTERN_WEIGHT: Final = 1000

ROOTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "run": {
        "run_id": "",
        "agent_id": "",
        "project_id": "",
        "actor_type": "",
        "origin_system_id": "",
        "attempt": 0,
        "labels": {},
    },
    "action": {"kind": "", "name": "", "target": "", "side_effect": False, "params": {}},
    "usage": {
        "COST_USD": 0.0,
        "TOKENS_INPUT": 0.0,
        "TOKENS_OUTPUT": 0.0,
        "TOKENS_TOTAL": 0.0,
        "STEPS": 0.0,
        "RUN_TIME_MS": 0.0,
    },
    "outcome": {"status": "", "termination_reason": "", "error_code": "", "duration_ms": 0, "step_count": 0},
    "incident": {"severity": "", "category": "", "error_code": "", "title": ""},
    "plane": {
        "plane_id": "",
        "plane_type": "",
        "plane_name": "",
        "connector_type": "",
        "sensitivity_level": "",
        "pii_detected": False,
    },
    "request": {"action": "", "purpose": "", "actor_id": "", "template_id": "", "step_index": 0},
}
"""The closed members of each name, with what an absent one reads as; `now` stands beside them."""

_AT_MOMENT: Final[Mapping[Moment, frozenset[str]]] = {
    Moment.START: frozenset({"run", "now"}),
    Moment.STEP: frozenset({"run", "now", "action", "usage"}),
    Moment.USAGE: frozenset({"run", "now", "usage"}),
    Moment.COMPLETION: frozenset({"run", "now", "outcome"}),
    Moment.INCIDENT: frozenset({"run", "now", "incident"}),
}
_FUNCTIONS: Final = frozenset(
    {"has", "size", "int", "uint", "double", "string", "bytes", "timestamp", "duration"}
)
_ACCESSORS: Final = frozenset(
    {
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)
_METHODS: Final = frozenset({"size", "contains", "startsWith", "endsWith", "matches"}) | _ACCESSORS | MACROS
_FAULT = re.compile(r"<input>:(\d+):(\d+): (.*)")


class Answer(StrEnum):
    """What a condition says; ERROR is a missing map key, a type clash, a bound, or no boolean."""

    MATCH = "MATCH"
    NO_MATCH = "NO_MATCH"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class CompiledCondition:
    """A condition ready to be judged by any thread; no program means always, `broken` always an error."""

    program: cel.Program | None
    depth: int = 0
    weight: int = 0
    growth: int = 1
    literal_items: int = 1
    broken: bool = False


ALWAYS: Final = CompiledCondition(None)
BROKEN: Final = CompiledCondition(None, broken=True)


class ConditionInputs:
    """The values one judgement is made over, completed once and shared by all its rules."""

    __slots__ = ("_context", "_largest", "_values")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = complete_inputs(values)
        self._context: cel.Context | None = None
        self._largest: int | None = None

    @property
    def context(self) -> cel.Context:
        """Return the library's form of the values; raise what it raises for a value it cannot hold."""
        if self._context is None:
            import cel

            self._context = cel.Context(variables=self._values)
        return self._context

    @property
    def largest(self) -> int:
        """Return the size of the largest list or map anywhere in the values."""
        if self._largest is None:
            self._largest = _largest(self._values)
        return self._largest


def complete_inputs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with every closed member present: absent or null texts "", numbers 0, maps {}."""
    completed: dict[str, Any] = {}
    for name, value in values.items():
        if name == "now":
            completed[name] = value
        else:
            given = value or {}
            completed[name] = {
                member: default if given.get(member) is None else _typed(given[member], default)
                for member, default in ROOTS[name].items()
            }
    return completed


def _typed(value: Any, default: Any) -> Any:
    # Amounts are doubles throughout, whether they came as 100 or as 100.5.
    if isinstance(default, float):
        return float(value)
    return dict(value) if isinstance(default, dict) else value


def names_at(kind: RuleKind, moments: Iterable[str] = ()) -> frozenset[str]:
    """Return the names a rule may use: those that exist at every one of its moments."""
    if kind is RuleKind.ACCESS:
        return frozenset({"run", "plane", "request", "now"})
    sets = [_AT_MOMENT[Moment(moment)] for moment in moments]
    return frozenset.intersection(*sets) if sets else frozenset({"run", "now"})


def check_condition(text: str | None, names: frozenset[str]) -> None:
    """Refuse with INVALID_CONDITION a text that cannot be judged with these names (null is always)."""
    if text is None:
        return
    compiled, reading = _compile(text)
    _check_names(text, reading, names)
    _check_patterns(text, reading)
    trial = {name: ROOTS[name] if name != "now" else datetime(2000, 1, 1, tzinfo=UTC) for name in names}
    if _is_not_boolean(compiled, ConditionInputs(trial)):
        raise InvalidConditionError("a condition answers true or false")


def load_condition(text: str | None) -> CompiledCondition:
    """Return a stored condition ready to judge; one that no longer compiles is BROKEN, an error always."""
    if text is None:
        return ALWAYS
    try:
        return _compile(text)[0]
    except InvalidConditionError:
        return BROKEN


def judge(condition: CompiledCondition, inputs: ConditionInputs) -> Answer:
    """Return whether the condition holds over the inputs; every failure is the answer ERROR."""
    if condition.broken:
        return Answer.ERROR
    if condition.program is None:
        return Answer.MATCH
    try:
        result = _run(condition, condition.program, inputs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001
        # A panic of the native library is no Exception; it too must end as an error of the rule.
        return Answer.ERROR
    if result is True:
        return Answer.MATCH
    return Answer.NO_MATCH if result is False else Answer.ERROR


def reads_usage(text: str | None) -> frozenset[str]:
    """Return the usage metrics a condition reads; none for one that does not compile."""
    if text is None:
        return frozenset()
    try:
        reading = _compile(text)[1]
    except InvalidConditionError:
        return frozenset()
    return frozenset(use.name for use in reading.members if use.of == "usage")


def _run(condition: CompiledCondition, program: cel.Program, inputs: ConditionInputs) -> Any:
    if condition.depth and _work(condition, inputs) > MAX_WORK:
        raise OverflowError("the condition may take too many iterations over these values")
    return program.execute(inputs.context)


def _work(condition: CompiledCondition, inputs: ConditionInputs) -> int:
    items = max(inputs.largest, condition.literal_items) * condition.growth
    return int(items**condition.depth) * condition.weight


def _compile(text: str) -> tuple[CompiledCondition, Reading]:
    if len(text) > MAX_CONDITION_LENGTH:
        raise InvalidConditionError(f"longer than {MAX_CONDITION_LENGTH} characters")
    # Loaded with the first condition: the package brings a terminal program with it, 9 MB.
    import cel

    try:
        program = cel.compile(text)
    except ValueError as error:
        raise _syntax_error(error) from None
    reading = read(text)
    _check_bounds(text, reading)
    _check_agreement(text, program, reading)
    inside = any(call.name == "matches" and call.depth for call in reading.calls)
    compiled = CompiledCondition(
        program,
        depth=reading.depth,
        weight=reading.tokens * (_PATTERN_WEIGHT if inside else 1),
        growth=2**reading.additions if reading.depth else 1,
        literal_items=reading.commas + 1,
    )
    return compiled, reading


def _syntax_error(error: ValueError) -> InvalidConditionError:
    fault = _FAULT.search(str(error))
    if fault is None:
        return InvalidConditionError("not a CEL expression")
    return InvalidConditionError(fault[3][:200], line=int(fault[1]), column=int(fault[2]))


def _check_bounds(text: str, reading: Reading) -> None:
    if reading.depth > MAX_COMPREHENSION_DEPTH:
        raise InvalidConditionError(
            f"comprehensions nest more than {MAX_COMPREHENSION_DEPTH} deep",
            **position(text, reading.deepest_offset),
        )
    most = MAX_ADDITIONS_WITH_COMPREHENSION if reading.depth else MAX_ADDITIONS
    if reading.additions > most:
        raise InvalidConditionError(f"more than {most} additions")


def _check_agreement(text: str, program: cel.Program, reading: Reading) -> None:
    named = {name for name in program.functions() if name.isidentifier() and not name.startswith("_")}
    for call in reading.calls:
        # A macro that is left over as a function call had the wrong arguments.
        if call.name in MACROS and call.name in named:
            where = position(text, call.offset)
            raise InvalidConditionError(f"{call.name}() has the wrong arguments", **where)
    used = {use.name for use in reading.free} | reading.bound
    # filter() names its variable itself, even where the condition does not.
    most = used | {use.name for use in reading.binders}
    if not used <= set(program.variables()) <= most or not named <= {call.name for call in reading.calls}:
        raise InvalidConditionError("the expression cannot be read without doubt; write it more plainly")


def _check_names(text: str, reading: Reading, names: frozenset[str]) -> None:
    for use in reading.free:
        if use.name not in names:
            known = ", ".join(sorted(names))
            raise InvalidConditionError(
                f"unknown name {use.name!r}; known here: {known}", **position(text, use.offset)
            )
    for use in reading.binders:
        if use.name in ROOTS or use.name == "now":
            raise InvalidConditionError(f"{use.name!r} already has a meaning", **position(text, use.offset))
    for use in reading.members:
        if use.of is not None and use.of in ROOTS and use.name not in ROOTS[use.of]:
            raise InvalidConditionError(f"{use.of} has no member {use.name!r}", **position(text, use.offset))
    for call in reading.calls:
        if call.name not in (_METHODS if call.method else _FUNCTIONS):
            raise InvalidConditionError(f"unknown function {call.name!r}", **position(text, call.offset))
        if call.name in _ACCESSORS and call.arguments:
            raise InvalidConditionError(
                f"{call.name}() reads UTC and takes no argument", **position(text, call.offset)
            )


def _check_patterns(text: str, reading: Reading) -> None:
    import cel

    for call in reading.calls:
        if call.name != "matches":
            continue
        where = position(text, call.offset)
        if len(call.arguments) != 1 or call.arguments[0].kind != "string":
            raise InvalidConditionError("matches() takes one pattern written as a text", **where)
        literal = call.arguments[0].text
        if len(literal) > MAX_PATTERN_LENGTH:
            raise InvalidConditionError(f"a pattern is at most {MAX_PATTERN_LENGTH} characters", **where)
        try:
            cel.compile(f'"".matches({literal})').execute()
        except (ValueError, RuntimeError, TypeError):
            raise InvalidConditionError("not a valid regular expression (RE2 syntax)", **where) from None


def _is_not_boolean(compiled: CompiledCondition, inputs: ConditionInputs) -> bool:
    program = compiled.program
    if program is None:
        return False
    try:
        return not isinstance(_run(compiled, program, inputs), bool)
    except Exception:  # noqa: BLE001
        # With every value empty many sound conditions fail; only a wrong type is a finding here.
        return False


def _largest(value: Any) -> int:
    # Nearly every value is one of these, and asking for a Mapping costs more than all the rest here.
    if type(value) in (str, float, int, bool):
        return 1
    if isinstance(value, Mapping):
        return max(len(value), 1, *(_largest(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return max(len(value), 1, *(_largest(item) for item in value))
    return 1
