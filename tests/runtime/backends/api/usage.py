"""Which names of a library a source file uses: attributes, calls, overridden methods.

Values are followed from the library's module through constructors, methods and properties, whose
results the recordings tell. Where our code annotates `Any`, a table of names says what it holds.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import MODULE, Api

OTHER = None
"""Declares a name that is annotated `Any` and holds nothing of the library."""


@dataclass(frozen=True)
class Kind:
    """What a value is: the module, a class of it, or an instance of that class."""

    name: str
    is_class: bool = False


@dataclass(frozen=True)
class Call:
    """Counts of positional arguments (None: unknown, `*` is used) and the keywords."""

    positional: int | None
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Use:
    """A member `name` of `owner` that is read, assigned, called or overridden somewhere."""

    where: str
    owner: str
    name: str
    call: Call | None = None
    assigned: bool = False
    overridden_with: int | None = None

    def problem(self, api: Api) -> str | None:
        """What is wrong with it in that release; None if it fits."""
        at = f"{self.where}: {api.library} {api.version}"
        member = f"{self.owner or 'module'}.{self.name}"
        if not api.has(self.owner, self.name):
            return f"{at} has no {member}"
        if self.assigned and not api.settable(self.owner, self.name):
            return f"{at}: {member} cannot be assigned"
        signatures = api.signatures(self.owner, self.name)
        if self.overridden_with is not None:
            good = any(len(s.arguments) == self.overridden_with for s in signatures)
            return None if good else f"{at}: {member} overridden with other arguments"
        if self.call is None:
            return None
        if api.member(self.owner, self.name) == f"class {self.name}":
            signatures = api.signatures(self.name, "__init__")
        positional, keywords = self.call.positional, self.call.keywords
        if positional is None:
            good = any(set(keywords) <= set(s.arguments) for s in signatures)
        else:
            good = any(s.takes(positional, keywords) for s in signatures)
        return None if good else f"{at}: {member} does not take {self.call}"


@dataclass
class Usage(ast.NodeVisitor):
    """Reads one source file.

    Attributes:
        declared: What parameters, attributes and functions that are annotated `Any` hold, by their
            name without leading underscores: a class of the library, `MODULE` or `OTHER`.
        apis: Recordings, to follow results with.
        aliases: Classes that docstrings name otherwise than Python does.
        uses: What was found.
        asked: Names that the file asks for with `hasattr` or `getattr`, with their owner.
        undeclared: Names annotated `Any` that `declared` lacks.
    """

    file: str
    declared: Mapping[str, str | None]
    apis: tuple[Api, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    uses: set[Use] = field(default_factory=set)
    asked: set[tuple[str, str]] = field(default_factory=set)
    undeclared: set[str] = field(default_factory=set)
    _scope: dict[str, Kind | None] = field(default_factory=dict)
    _attributes: dict[str, Kind | None] = field(default_factory=dict)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if _holds_any(node.returns):
            self._declaration(node.name)
        outer, self._scope = self._scope, dict(self._scope)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            found = self._declaration(argument.arg) if _holds_any(argument.annotation) else None
            self._scope[argument.arg] = found
        self.generic_visit(node)
        self._scope = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self.kind(base)
            if kind is not None and kind.is_class:
                self._overrides(node, kind.name)
        self.generic_visit(node)

    def _overrides(self, node: ast.ClassDef, owner: str) -> None:
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                where, given = self._where(method), len(method.args.args) - 1
                self.uses.add(Use(where, owner, method.name, overridden_with=given))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        name = node.target.attr if isinstance(node.target, ast.Attribute) else None
        name = node.target.id if isinstance(node.target, ast.Name) else name
        if name is not None and _holds_any(node.annotation) and node.value is None:
            self._declaration(name)
        self.generic_visit(node)
        if node.value is not None:
            self._assign(node.target, node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self._assign(target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=True):
                self._assign(one, its)
        elif isinstance(target, ast.Name):
            self._scope[target.id] = self.kind(value)
        elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            known = self.kind(value)
            if known is not None:
                self._attributes[target.attr] = known

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node, None)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            kind, name = self.kind(node.args[0]), node.args[1]
            if kind is not None and isinstance(name, ast.Constant):
                self.asked.add((kind.name, name.value))
        if isinstance(node.func, ast.Attribute):
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
            self._use(node.func, Call(None if starred else len(node.args), keywords))
        self.generic_visit(node)

    def _use(self, node: ast.Attribute, call: Call | None) -> None:
        owner = self.kind(node.value)
        if owner is not None and not node.attr.startswith("__"):
            stored = isinstance(node.ctx, ast.Store)
            self.uses.add(Use(self._where(node), owner.name, node.attr, call, stored))

    def _where(self, node: ast.stmt | ast.expr) -> str:
        return f"{self.file}:{node.lineno}"

    def _declaration(self, name: str) -> Kind | None:
        bare = name.strip("_")
        if bare not in self.declared:
            self.undeclared.add(f"{self.file}: {name}")
            return None
        found = self.declared[bare]
        return None if found is OTHER else Kind(found)

    def kind(self, node: ast.expr) -> Kind | None:
        """What an expression gives; None if it is nothing of the library."""
        if isinstance(node, ast.Name):
            return self._scope[node.id] if node.id in self._scope else self._known(node.id)
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) == "self":
                return self._attributes.get(node.attr) or self._known(node.attr)
            owner = self.kind(node.value)
            return None if owner is None else self._member(owner, node.attr)
        if isinstance(node, ast.Call):
            return self._result(node.func)
        if isinstance(node, ast.IfExp):
            return self.kind(node.body) or self.kind(node.orelse)
        return None

    def _known(self, name: str) -> Kind | None:
        found = self.declared.get(name.strip("_"), OTHER)
        return None if found is OTHER else Kind(found)

    def _member(self, owner: Kind, name: str) -> Kind | None:
        for api in self.apis:
            if owner.name == MODULE and api.has(name):
                return Kind(name, is_class=True)
            kind = api.kind(owner.name, name)
            if kind:
                return self._class(kind)
        return None

    def _result(self, function: ast.expr) -> Kind | None:
        if isinstance(function, ast.Name) or ast.unparse(function).startswith("self."):
            called = self.kind(function)
            if called is not None and not called.is_class:  # our own function, declared
                return called
        if not isinstance(function, ast.Attribute):
            return None
        owner = self.kind(function.value)
        if owner is None:
            return None
        if owner.name == MODULE and any(api.has(function.attr) for api in self.apis):
            return Kind(function.attr)
        found = (
            signature.returns
            for api in self.apis
            for signature in api.signatures(owner.name, function.attr)
        )
        return self._class(next(found, ""))

    def _class(self, name: str) -> Kind | None:
        known = self.aliases.get(name, name)
        return Kind(known) if any(api.has(known) for api in self.apis) else None


def _holds_any(annotation: ast.expr | None) -> bool:
    """Whether a value of that annotation may be the library's: `Any`, alone or or'ed."""
    parts = ast.unparse(annotation).split(" | ") if annotation is not None else []
    return "Any" in parts
