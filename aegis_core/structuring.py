"""Classes, collections and unions from the wire: cattrs, made strict.

cattrs by itself coerces (text is a list of its letters, 1 is True). Here a list must be a list, a class a map with its
fields and no others, an enumeration one of its values. `aegis_core.codec` imports this module with the first handler
that needs it, because cattrs takes long to import.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import operator
import reprlib
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from typing import Final
from uuid import UUID

import attrs
import cattrs
from cattrs.cols import is_namedtuple

from aegis_core.errors import Problem
from aegis_core.parameters import READERS, SHOWN, UNFIT, Reader, read_text

__all__ = ["problems", "reader", "understanding"]

Hook = Callable[[object, object], object]
Understanding = Callable[[object], object]

MOST_PROBLEMS: Final = 20
"""How many problems are told; so many wrong elements end the look at a collection, too."""

# What a collection is made into, by what it is annotated as.
_COLLECTIONS: Final[abc.Mapping[object, Callable[[Iterable[object]], object]]] = {
    list: list,
    abc.Collection: list,
    abc.Iterable: list,
    abc.MutableSequence: list,
    abc.Sequence: list,
    tuple: tuple,
    set: set,
    abc.MutableSet: set,
    abc.Set: frozenset,
    frozenset: frozenset,
    collections.deque: collections.deque,
}
_MAPPINGS: Final = frozenset({dict, abc.Mapping, abc.MutableMapping})


def reader(kind: object) -> Reader:
    """What makes a *kind* of a value from the wire, or raises one of `UNFIT`.

    Raises:
        TypeError: Nothing from the wire can be a *kind*, or which member of a union it is cannot be told.
    """
    try:
        hook = _converter.get_structure_hook(kind)
    except (cattrs.StructureHandlerNotFoundError, NameError, TypeError) as exc:
        raise TypeError(f"{kind} cannot be made of what travels: {exc}") from exc
    return lambda value: hook(value, kind)


@functools.cache
def understanding(kind: object) -> Understanding | None:
    """What takes from a value what the type *kind* knows; None where that is all of it.

    Unknown fields of classes are left out, and nils of fields that have a default and cannot be nil. So a request is read that a newer, or an older, program wrote. What does not fit is left for `reader` to tell.
    """
    arguments = typing.get_args(kind)
    if _is_class(kind):
        return _class_understanding(kind)
    if _origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return understanding(members[0]) if len(members) == 1 else None
    inner = understanding(arguments[-1]) if arguments and arguments[-1] is not Ellipsis else None
    if arguments and _is_collection(kind):
        element = understanding(arguments[0])
        if element is not None:
            return lambda value: [element(item) for item in value] if type(value) is list else value
    elif inner is not None and _origin(kind) in _MAPPINGS:
        return lambda value: {key: inner(item) for key, item in value.items()} if type(value) is dict else value
    return None


def _class_understanding(kind: object) -> Understanding:
    kinds = typing.get_type_hints(kind)
    fields: dict[object, tuple[Understanding | None, bool]] = {
        field.name: (
            understanding(kinds[field.name]),
            field.default is not attrs.NOTHING and types.NoneType not in typing.get_args(kinds[field.name]),
        )
        for field in attrs.fields(kind)  # type: ignore[arg-type]  # of attrs alone: nobody else's are requests
    }

    def understood(value: object) -> object:
        if type(value) is not dict:
            return value
        found = {}
        for name, given in value.items():
            known = fields.get(name)
            if known is not None and not (given is None and known[1]):
                found[name] = given if known[0] is None else known[0](given)
        return found

    return understood


def problems(exc: Exception, path: str) -> list[Problem]:
    """What is wrong with the value at *path*, by the error that its reader raised."""
    lines = cattrs.transform_error(exc, path, format_exception=_say)
    found = (line.rpartition(" @ ") for line in lines[:MOST_PROBLEMS])
    return [Problem(where, message) for message, _, where in found]


def _say(exc: BaseException, _kind: type | None) -> str:
    match exc:
        case cattrs.ForbiddenExtraKeysError():
            # Not cattrs' own words: they fail where a name is no text.
            text = f"extra fields found ({', '.join(sorted(map(str, exc.extra_fields)))})"
        case KeyError():
            text = "required field missing"
        case RecursionError():
            text = "nested too deeply"
        case _:
            text = str(exc.args[0]) if exc.args else ""  # attrs' validators put four things into args
    return text[:SHOWN] or type(exc).__name__


def _origin(kind: object) -> object:
    return typing.get_origin(kind) or kind


def _late(kind: object) -> Hook:
    """The hook of a part; of a class that is just being looked at, found when it is needed."""
    try:
        return _converter.get_structure_hook(kind)
    except RecursionError:
        return _converter.structure  # type: ignore[return-value]


def _expect(kind: type, value: object) -> None:
    if type(value) is not kind:
        said = "a map" if kind is dict else "a list"
        raise TypeError(f"expected {said}, got {type(value).__name__}")


def _checked(kind: type, hook: Callable[..., object]) -> Hook:
    def structure(value: object, as_kind: object) -> object:
        _expect(kind, value)
        return hook(value, as_kind)

    return structure


def _collect(pairs: Iterable[tuple[object, object]], hook: Hook, kind: object) -> list[object]:
    """The values of *pairs* as *kind*; their keys are for the paths of problems."""
    done = []
    wrong: list[Exception] = []
    for key, value in pairs:
        try:
            done.append(hook(value, kind))
        except UNFIT as exc:
            note = cattrs.IterableValidationNote("", key, kind)  # type: ignore[arg-type]
            exc.add_note(note)
            wrong.append(exc)
            if len(wrong) == MOST_PROBLEMS:
                break
    if wrong:
        raise cattrs.IterableValidationError("elements", wrong, list)  # pyright: ignore[reportCallIssue]
    return done


def _is_collection(kind: object) -> bool:
    arguments = typing.get_args(kind)
    if _origin(kind) is tuple and arguments and arguments[-1] is not Ellipsis:
        return False
    return _origin(kind) in _COLLECTIONS


def _collection(kind: object) -> Hook:
    make = _COLLECTIONS[_origin(kind)]
    element = (*typing.get_args(kind), object)[0]
    hook = _late(element)

    def structure(value: object, _kind: object) -> object:
        _expect(list, value)
        return make(_collect(enumerate(value), hook, element))  # type: ignore[arg-type]

    return structure


def _tuple(kind: object) -> Hook:
    return _fixed(typing.get_args(kind), tuple)


def _named_tuple(kind: Callable[..., object]) -> Hook:
    return _fixed(tuple(typing.get_type_hints(kind).values()), lambda values: kind(*values))


def _fixed(kinds: tuple[object, ...], make: Callable[[list[object]], object]) -> Hook:
    hooks = [_late(kind) for kind in kinds]

    def structure(value: object, _kind: object) -> object:
        _expect(list, value)
        raw: list[object] = value  # type: ignore[assignment]
        if len(raw) != len(hooks):
            raise ValueError(f"expected {len(hooks)} elements, got {len(raw)}")
        parts = zip(raw, hooks, kinds, strict=True)
        return make(_collect(enumerate(parts), _part, object))

    return structure


def _part(part: object, _kind: object) -> object:
    value, hook, kind = part  # type: ignore[misc]
    return hook(value, kind)  # type: ignore[has-type]


def _mapping(kind: object) -> Hook:
    key_kind, value_kind = (*typing.get_args(kind), object, object)[:2]
    key_hook, value_hook = _late(key_kind), _late(value_kind)

    def structure(value: object, _kind: object) -> object:
        _expect(dict, value)
        raw: dict[object, object] = value  # type: ignore[assignment]
        keys = _collect(((key, key) for key in raw), key_hook, key_kind)
        return dict(zip(keys, _collect(raw.items(), value_hook, value_kind), strict=True))

    return structure


def _is_class(kind: object) -> bool:
    origin = _origin(kind)
    return isinstance(origin, type) and (attrs.has(origin) or dataclasses.is_dataclass(origin))


def _is_union(kind: object) -> bool:
    """A union of more than classes, and more than one thing or nothing: cattrs is good at those."""
    if _origin(kind) not in (typing.Union, types.UnionType):
        return False
    members = [member for member in typing.get_args(kind) if member is not types.NoneType]
    return len(members) > 1 and not all(map(_is_class, members))


def _union(kind: object) -> Hook:
    members = typing.get_args(kind)
    classes = tuple(filter(_is_class, members))
    others = [member for member in members if member not in classes]
    if classes:
        others.append(functools.reduce(operator.or_, classes))
    hooks = [(member, _late(member)) for member in others]

    def structure(value: object, _kind: object) -> object:
        inner = None
        for member, hook in hooks:
            try:
                return hook(value, member)
            except ExceptionGroup as exc:
                inner = exc  # It was meant to be this one: its problems say more than ours.
            except UNFIT:
                continue
        if inner is not None:
            raise inner
        raise TypeError(f"expected {_named(kind)}, got {type(value).__name__}")

    return structure


def _named(kind: object) -> str:
    return " | ".join(getattr(member, "__name__", str(member)) for member in typing.get_args(kind))


@functools.cache
def _enumeration(kind: type[enum.Enum]) -> Hook:
    # By type and value: 1, 1.0 and True are different words.
    members = {(type(member.value), member.value): member for member in kind}
    words = ", ".join(repr(member.value) for member in kind)

    def structure(value: object, _kind: object) -> object:
        try:
            return members[type(value), value]
        except (KeyError, TypeError):
            raise ValueError(f"{reprlib.repr(value)} is none of {words}") from None

    return structure


def _literal(kind: object) -> Hook:
    words = {(type(word), word): word for word in typing.get_args(kind)}
    listed = ", ".join(map(repr, typing.get_args(kind)))

    def structure(value: object, _kind: object) -> object:
        try:
            return words[type(value), value]
        except (KeyError, TypeError):
            raise ValueError(f"{reprlib.repr(value)} is none of {listed}") from None

    return structure


def _plain(read: Reader, base: type) -> Hook:
    def structure(value: object, kind: object) -> object:
        # cattrs asks for classes made of the type, too, and for enumerations among them before all else.
        if kind is base:
            return read(value)
        if isinstance(kind, enum.EnumMeta):
            return _enumeration(kind)(value, kind)
        return kind(read(value))  # type: ignore[operator]

    return structure


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    factory = converter.register_structure_hook_factory

    def class_hook(kind: object) -> Hook:
        return _checked(dict, converter.gen_structure_attrs_fromdict(kind))  # type: ignore[arg-type]

    def typed_dict_hook(kind: object) -> Hook:
        return _checked(dict, converter.gen_structure_typeddict(kind))

    # Where several fit, the one that was registered last counts.
    factory(_is_class, class_hook)
    factory(lambda kind: typing.is_typeddict(_origin(kind)), typed_dict_hook)
    factory(lambda kind: _origin(kind) is tuple, _tuple)
    factory(is_namedtuple, _named_tuple)
    factory(_is_collection, _collection)
    factory(lambda kind: _origin(kind) in _MAPPINGS, _mapping)
    factory(lambda kind: isinstance(kind, enum.EnumMeta), _enumeration)
    factory(lambda kind: _origin(kind) is typing.Literal, _literal)
    factory(_is_union, _union)
    for base, read in READERS.items():
        if base is object or base is types.NoneType:
            factory(partial(operator.is_, base), partial(_only, read))
        elif isinstance(base, type) and base not in (dict, list):
            converter.register_structure_hook(base, _plain(read, base))
    for text in (Decimal, UUID):
        converter.register_structure_hook(text, _plain(partial(read_text, text), text))
    return converter


def _only(read: Reader, _kind: object) -> Hook:
    return lambda value, _: read(value)


_converter: Final = _make_converter()
