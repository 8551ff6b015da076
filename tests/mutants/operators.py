"""The faults: what may be wrong in a line of Python, as another text of that line.

Of each expression and statement its likeliest slips: the neighbouring comparison, `and` for `or`, a condition turned
round, a number off by one, a sign, two arguments swapped, a keyword forgotten, a result not returned, a statement not
there. Left alone are texts for people (strings, f-strings), annotations, docstrings, assertions for the type checker,
and what only says how a class is laid out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_TURNED_ROUND = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    """One fault in one module."""

    path: str  # from the project's root
    line: int
    last_line: int  # of the statement's own lines, those of its body not counted
    scope: str  # qualified name of the function that holds it; empty: it takes effect when the module is imported
    was: str  # the line as it is
    now: str  # as it would be
    source: str  # the whole module with the fault


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its text."""
    text = source.encode()
    starts = [0]
    for row in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found: list[Mutant] = []
    seen = {text}  # two equal arguments swapped are no fault
    for place in _Finder().places(ast.parse(source)):
        node = place.node
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        for replacement in place.replacements:
            mutated = text[:begin] + replacement.encode() + text[end:]
            if mutated in seen:
                continue
            seen.add(mutated)
            head = text[starts[node.lineno - 1] : begin].decode()
            tail = text[end : starts[node.end_lineno or 0]].decode().rstrip("\n")
            was = " ".join(text[starts[node.lineno - 1] : starts[node.end_lineno or 0]].decode().split())
            now = " ".join((head + replacement + tail).split())
            found.append(
                Mutant(path, node.lineno, max(place.last_line, node.lineno), place.scope, was, now, mutated.decode())
            )
    return found


@dataclass(frozen=True)
class _Place:
    node: ast.stmt | ast.expr
    replacements: list[str]
    scope: str
    last_line: int


class _Finder:
    """Walks a module and knows in which function it is."""

    def places(self, tree: ast.Module) -> Iterator[_Place]:
        yield from self._body(tree.body, "", inside=False)

    def _body(self, body: list[ast.stmt], scope: str, *, inside: bool) -> Iterator[_Place]:
        for statement in body:
            yield from self._statement(statement, scope, inside=inside)

    def _statement(self, node: ast.stmt, scope: str, *, inside: bool) -> Iterator[_Place]:
        if _says_nothing(node):
            return
        if isinstance(node, ast.ClassDef):
            yield from self._body(node.body, f"{scope}{node.name}.", inside=inside)
            return
        here = scope if inside else ""
        if isinstance(node, _FUNCTIONS):
            for default in [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]:
                yield from self._expressions(default, here, default.end_lineno or 0)
            yield from self._body(node.body, scope if inside else scope + node.name, inside=True)
            return
        bodies = [body for name in ("body", "orelse", "finalbody") if (body := getattr(node, name, None))]
        last = bodies[0][0].lineno - 1 if bodies else node.end_lineno or 0
        if replacements := list(_of_statement(node)):
            yield _Place(node, replacements, here, last)
        if isinstance(node, ast.If | ast.While):
            yield from _turned_round(node.test, here, last)
        for name, field in ast.iter_fields(node):
            if name == "annotation" or (
                name == "value" and isinstance(field, ast.Constant) and isinstance(node, ast.Expr)
            ):
                continue
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.expr):
                    yield from self._expressions(child, here, last)
                elif isinstance(child, ast.withitem):
                    yield from self._expressions(child.context_expr, here, last)
                elif isinstance(child, ast.match_case):
                    if child.guard is not None:
                        yield from self._expressions(child.guard, here, child.body[0].lineno - 1)
                    yield from self._body(child.body, scope, inside=inside)
                elif isinstance(child, ast.ExceptHandler):
                    yield from self._body(child.body, scope, inside=inside)
        for body in bodies:
            yield from self._body(body, scope, inside=inside)

    def _expressions(self, node: ast.expr, scope: str, last: int) -> Iterator[_Place]:
        if isinstance(node, ast.JoinedStr):
            return
        if replacements := list(_of_expression(node)):
            yield _Place(node, replacements, scope, last)
        if isinstance(node, ast.IfExp):
            yield from _turned_round(node.test, scope, last)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from self._expressions(child, scope, last)
            elif isinstance(child, ast.keyword):
                yield from self._expressions(child.value, scope, last)
            elif isinstance(child, ast.comprehension):
                yield from self._expressions(child.iter, scope, last)
                for condition in child.ifs:
                    yield from _turned_round(condition, scope, last)
                    yield from self._expressions(condition, scope, last)


def _turned_round(test: ast.expr, scope: str, last: int) -> Iterator[_Place]:
    """A condition that means its opposite, unless another mutant of it says just that."""
    is_turned = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    if not is_turned and not isinstance(test, ast.Compare):
        yield _Place(test, [f"(not ({ast.unparse(test)}))"], scope, last)


def _says_nothing(node: ast.stmt) -> bool:
    """Whether nothing in it can be wrong by a slip that a test should find."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.Pass | ast.Global | ast.Nonlocal):
        return True
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}
    if isinstance(node, ast.AnnAssign):
        return node.value is None or ast.unparse(node.annotation) == "TypeAlias"
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == "__slots__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _of_statement(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.Delete() | ast.Raise():
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(), *_]):
            yield "pass"
        case ast.AugAssign():
            yield "pass"
            if type(node.op) in _COMPUTED:
                yield ast.unparse(_changed(node, op=_COMPUTED[type(node.op)]()))
        case ast.Return(value=None):
            yield "pass"
        case ast.Return(value=value) if not isinstance(value, ast.Constant):
            yield "return None"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "continue"
        case _:
            pass


def _of_expression(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                changed = _changed(node, ops=[*ops[:at], _COMPARED[type(op)](), *ops[at + 1 :]])
                yield f"({ast.unparse(changed)})"
            if len(ops) == 1 and not isinstance(ops[0], _TURNED_ROUND):
                yield f"(not {ast.unparse(node)})"
        case ast.BoolOp(op=op):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield f"({ast.unparse(_changed(node, op=other))})"
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            yield f"({ast.unparse(_changed(node, op=_COMPUTED[type(op)]()))})"
        case ast.Constant(value=bool(value)):
            yield repr(not value)
        case ast.Constant(value=int(value) | float(value)) if value + 1 != value:
            yield repr(value + 1)
        case ast.Call():
            yield from _of_call(node)
        case _:
            pass


def _of_call(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in {"min", "max"}:
        other = ast.Name("max" if node.func.id == "min" else "min")
        yield ast.unparse(_changed(node, func=other))
    elif len(node.args) > 1 and not any(isinstance(one, ast.Starred) for one in node.args[:2]):
        first, second, *rest = node.args
        yield ast.unparse(_changed(node, args=[second, first, *rest]))
    for at, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield ast.unparse(_changed(node, keywords=node.keywords[:at] + node.keywords[at + 1 :]))


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
