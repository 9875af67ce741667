"""What a function takes and gives: the codecs of its parameters and of its result.

A decorator runs before the names in its function's annotations need to exist, so a `Signature` reads nothing until it
is first used. Then it resolves every annotation, texts too, by the names of the function's closure and module, and by
those of the function in which it was defined; it compiles their codecs, and lets go of that function's frame.

Arguments are written as one JSON array, as they were given: defaults are not filled in, so that a default that changes
later does not change what was asked. Keywords go through `functools.partial`: what a partial binds is no argument, but
is part of what was asked, and `bound` has it.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any, get_args, get_origin

import orjson

from .codec import ValueCodec, codec_for, may_hold_large_int, parse_exactly, refuse
from .errors import DefinitionError, PayloadError

Locals = Callable[[], Mapping[str, object]]


def enclosing_locals(depth: int = 0) -> Locals | None:
    """The names of the function in which something is being defined; None where it is defined in a module.

    They are read when they are asked for: a class may be defined after the function whose annotation names it. Until
    then the frame, and all that stands in it, is kept.

    Args:
        depth: how many frames above the caller's the definition stands: 0 for the caller itself, 1 for a decorator.
    """
    frame: types.FrameType | None = sys._getframe(depth + 1)
    while frame is not None and _is_class_body(frame):
        frame = frame.f_back
    if frame is None or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return None
    defining = frame
    return lambda: defining.f_locals


def _is_class_body(frame: types.FrameType) -> bool:
    return "__qualname__" in frame.f_locals and not frame.f_code.co_flags & inspect.CO_OPTIMIZED


class Signature:
    """The codecs of a function's arguments and of its result, made when they are first needed."""

    __slots__ = ("_function", "_locals", "_plan", "_result", "_skip", "name")

    def __init__(self, function: Callable[..., Any], skip: int, locals: Locals | None) -> None:
        self._function = function
        self._skip = skip
        self._locals = locals
        self._plan: _Plan | None = None
        self._result: ValueCodec | None = None
        self.name = _name_of(function)

    @classmethod
    def of(cls, function: Callable[..., Any], *, skip: int = 0, locals: Locals | None = None) -> Signature:
        """The signature of a function, partial, bound method, class, callable object or builtin.

        A builtin that does not tell its signature takes and gives whatever JSON gives back equal.

        Args:
            function: what is to be called.
            skip: how many of its first parameters are not arguments: 1 for a function that takes a context.
            locals: the names of the function in which it was defined, as `enclosing_locals` gives them.
        """
        return cls(function, skip, locals)

    def __repr__(self) -> str:
        return f"<Signature of {self.name}>"

    @property
    def result(self) -> ValueCodec:
        """The codec of what the function returns; of a coroutine function, of what awaiting it gives.

        Raises:
            DefinitionError: an annotation cannot be resolved.
        """
        if self._result is None:
            self._resolve()
        return typing.cast(ValueCodec, self._result)

    @property
    def bound(self) -> str:
        """What a partial binds, as JSON text: part of what is asked, though no argument. Empty for anything else.

        Raises:
            PayloadError: a value that is bound cannot be encoded.
            DefinitionError: an annotation cannot be resolved.
        """
        if not isinstance(self._function, functools.partial):
            return ""
        return _bound_text(self.name, self._function, (self._plan or self._resolve()).bound)

    def encode(self, args: tuple[Any, ...]) -> str:
        """The arguments, as given, as the text of a JSON array.

        Raises:
            PayloadError: the function does not take so many arguments, or they cannot be encoded; paths begin with the
                parameter's name, as `order.lines[3].price`.
            DefinitionError: an annotation cannot be resolved, or the function cannot be called with positional
                arguments alone.
        """
        plan = self._plan or self._resolve()
        if plan.required <= len(args) <= plan.usual:
            try:
                return orjson.dumps([write(value) for write, value in zip(plan.writers, args)]).decode()  # noqa: B905
            except Exception:  # properties and hooks are the user's code; the careful way tells what it was
                pass
        return plan.encode(args)

    def decode(self, text: str) -> tuple[Any, ...]:
        """The arguments that a text says, anew at every call.

        Raises:
            PayloadError: it is no JSON array of such arguments.
            DefinitionError: as `encode`.
        """
        plan = self._plan or self._resolve()
        if not (plan.is_loose and may_hold_large_int(text)):
            try:
                tree = orjson.loads(text)
                if type(tree) is list and plan.required <= len(tree) <= plan.usual:
                    return tuple([read(value) for read, value in zip(plan.readers, tree)])  # noqa: B905
            except Exception:  # constructors are the user's code; the careful way tells what it was
                pass
        return plan.decode(text)

    def _resolve(self) -> _Plan:
        function = self._function
        names = _Names(function, self._locals)
        shown = _inspected(function)
        if shown is None:  # a builtin that does not tell
            plan = _Plan(self.name, [], codec_for(Any), 0, {})
            result = codec_for(function if isinstance(function, type) else Any)
        else:
            parameters = _arguments(self.name, shown, self._skip)
            positional = [p for p in parameters if p.kind is not Parameter.VAR_POSITIONAL]
            rest = next((p for p in parameters if p.kind is Parameter.VAR_POSITIONAL), None)
            codecs = [(p.name, self._codec(p, names)) for p in positional]
            required = sum(p.default is Parameter.empty for p in positional)
            plan = _Plan(self.name, codecs, self._codec(rest, names) if rest else None, required, self._all(names))
            result = self._codec(None, names, _given(function, shown))
        self._result = result
        self._plan = plan
        self._locals = None  # its frame holds on to all that stands in it
        return plan

    def _all(self, names: _Names) -> dict[str, ValueCodec]:
        """For a partial: the codecs of all parameters of the function that it stands for."""
        if not isinstance(self._function, functools.partial):
            return {}
        shown = _inspected(self._function.func)
        return {} if shown is None else {p.name: self._codec(p, names, whole=True) for p in shown.parameters.values()}

    def _codec(
        self, parameter: Parameter | None, names: _Names, annotation: Any = Parameter.empty, *, whole: bool = False
    ) -> ValueCodec:
        """The codec of a parameter, or of the result where there is none. `whole`: of all that `*args` stands for."""
        where = f"parameter {parameter.name!r}" if parameter else "its result"
        annotation = parameter.annotation if parameter else annotation
        try:
            resolved = names.resolved(annotation)
            if parameter is None and get_origin(resolved) in (collections.abc.Awaitable, collections.abc.Coroutine):
                resolved = get_args(resolved)[-1]
            if whole and parameter is not None:
                resolved = _whole(parameter, Any if resolved is Parameter.empty else resolved)
            return codec_for(resolved, names.all)
        except DefinitionError as error:
            raise DefinitionError(f"{self.name}: the annotation of {where} cannot be used: {error}") from error
        except Exception as error:  # an annotation that is text is the user's code, and may raise anything
            raise DefinitionError(
                f"{self.name}: the annotation {annotation!r} of {where} cannot be resolved ({error}); define or import "
                f"the name, not under `if TYPE_CHECKING`, before {self.name} is first used"
            ) from error


# -------------------------------------------------------------------------------------------------- what it came to


class _Plan:
    """What a signature resolved to: how many arguments there may be, and the codec of each."""

    __slots__ = ("bound", "codecs", "is_loose", "name", "names", "readers", "required", "rest", "usual", "writers")

    def __init__(
        self,
        name: str,
        codecs: list[tuple[str, ValueCodec]],
        rest: ValueCodec | None,
        required: int,
        bound: dict[str, ValueCodec],
    ) -> None:
        self.name = name
        self.names = [parameter for parameter, _ in codecs]
        self.codecs = [codec for _, codec in codecs]
        self.rest = rest
        self.required = required
        self.bound = bound
        self.usual = len(codecs)
        self.writers = tuple(codec.write_tree for codec in self.codecs)
        self.readers = tuple(codec.read_tree for codec in self.codecs)
        self.is_loose = any(codec.is_loose for codec in (*self.codecs, *([rest] if rest else [])))

    def encode(self, args: Sequence[Any]) -> str:
        return f"[{','.join(_encoded(self._paired(args)))}]"

    def decode(self, text: str) -> tuple[Any, ...]:
        tree = parse_exactly(text)
        if type(tree) is not list:
            raise PayloadError("", f"these are no arguments of {self.name}: {text[:60]!r} is no JSON array")
        pairs = self._paired(tree)
        refuse([fault for path, codec, value in pairs for fault in codec.faults_in(value, path)])
        return tuple([codec.read_tree(value) for _, codec, value in pairs])

    def _paired(self, args: Sequence[Any]) -> list[_Named]:
        """Each argument with its parameter's name and codec."""
        count = len(args)
        if count < self.required or (count > self.usual and self.rest is None):
            raise PayloadError(
                "", f"{self.name} takes {self._takes()}, but {count} {'was' if count == 1 else 'were'} given"
            )
        pairs = list(zip(self.names, self.codecs, args, strict=False))
        if self.rest is not None:
            pairs += [(f"[{index}]", self.rest, args[index]) for index in range(self.usual, count)]
        return pairs

    def _takes(self) -> str:
        names = f" ({', '.join(self.names)})" if self.names else ""
        if self.rest is not None:
            return f"at least {self.required} argument{'' if self.required == 1 else 's'}{names}"
        if self.required < self.usual:
            return f"from {self.required} to {self.usual} arguments{names}"
        return f"{self.usual or 'no'} argument{'' if self.usual == 1 else 's'}{names}"


_Named = tuple[str, ValueCodec, Any]
"""A value, what to call it, and its codec."""


def _encoded(pairs: list[_Named]) -> list[str]:
    """The values as JSON texts; all faults of all of them are told at once."""
    refuse([fault for path, codec, value in pairs for fault in codec.faults_of(value, path)])
    return [codec.encode(value, path) for path, codec, value in pairs]


def _bound_text(name: str, function: functools.partial[Any], codecs: Mapping[str, ValueCodec]) -> str:
    """What a partial binds, as an object of the parameters' names."""
    if codecs:
        try:
            given = inspect.signature(function.func).bind_partial(*function.args, **function.keywords).arguments
        except TypeError as error:
            raise PayloadError("", f"the partial of {name} binds what it does not take: {error}") from error
    else:
        given = {"args": list(function.args), **function.keywords}
    pairs = [(key, codecs.get(key) or codec_for(Any), value) for key, value in sorted(given.items())]
    keys = [orjson.dumps(key).decode() for key, _, _ in pairs]
    return f"{{{','.join(f'{key}:{text}' for key, text in zip(keys, _encoded(pairs), strict=True))}}}"


# ------------------------------------------------------------------------------------------------ what Python tells


def _inspected(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _arguments(name: str, shown: inspect.Signature, skip: int) -> list[Parameter]:
    """The parameters that arguments can be given to by position, after the first few."""
    parameters = list(shown.parameters.values())
    for parameter in parameters:
        if parameter.kind is Parameter.KEYWORD_ONLY and parameter.default is Parameter.empty:
            raise DefinitionError(
                f"{name} takes {parameter.name!r} by keyword only, and arguments are given by position; give it a "
                f"default, or bind it with functools.partial({name}, {parameter.name}=…)"
            )
    positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    rest = [p for p in parameters if p.kind is Parameter.VAR_POSITIONAL]
    if len(positional) < skip and not rest:
        raise DefinitionError(f"{name} takes {len(positional)} parameters; {skip} must come before its arguments")
    return positional[skip:] + rest


def _given(function: Callable[..., Any], shown: inspect.Signature) -> Any:
    """The annotation of what calling it gives: a class gives itself."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if isinstance(function, type) else shown.return_annotation


def _whole(parameter: Parameter, annotation: Any) -> Any:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return tuple[annotation, ...]
    if parameter.kind is Parameter.VAR_KEYWORD:
        return dict[str, annotation]
    return annotation


class _Names:
    """Where the names in a function's annotations are looked up."""

    def __init__(self, function: Callable[..., Any], locals: Locals | None) -> None:
        written = _as_written(function)
        self._locals = locals
        self._closure = dict(_closure(written))
        module = sys.modules.get(getattr(written, "__module__", None) or "")
        self._globals: dict[str, Any] = getattr(written, "__globals__", None) or vars(module or typing)

    def all(self) -> Mapping[str, Any]:
        """All names, innermost first."""
        local = self._locals() if self._locals else {}
        return ChainMap(dict(local), self._closure, self._globals)

    def resolved(self, annotation: Any) -> Any:
        """The annotation with all texts in it, however deep, replaced by what they name."""
        if annotation is Parameter.empty or (isinstance(annotation, type) and not get_args(annotation)):
            return annotation

        def holder() -> None: ...

        holder.__annotations__ = {"it": annotation}
        names = self.all()
        return typing.get_type_hints(holder, globalns=self._globals, localns=dict(names), include_extras=True)["it"]


def _as_written(function: Any) -> Any:
    """The function, or the class, whose source holds the annotations."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, type | types.FunctionType | types.BuiltinFunctionType):
        function = getattr(type(function), "__call__", function)  # noqa: B004  (it is looked up, not asked for)
    return inspect.unwrap(function)


def _closure(function: Any) -> Iterator[tuple[str, Any]]:
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(function.__code__.co_freevars if cells else (), cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
