"""NKIObject: the base of classes that kernels define."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field
from typing import Any


class NKIObject:
    """Base class for dataclasses and configuration objects of kernels.

    A class without `__init__` gets one, with `@dataclass` and without, as the compiler makes it: one parameter per
    annotated field, in order, None where neither the call nor the class has a value; then a call of `__post_init__`.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__init__ is NKIObject.__init__:
            cls.__init__ = NKIObject.__init__  # type: ignore[method-assign]  # a class's own: @dataclass makes no other

    def __init__(self, *values: Any, **named: Any) -> None:
        kinds = reversed(type(self).__mro__[:-1])
        fields = list(dict.fromkeys(name for kind in kinds for name in inspect.get_annotations(kind)))
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, {len(values)} values were given")
        given = dict(zip(fields, values, strict=False)) | named
        for name in fields:
            object.__setattr__(self, name, given.pop(name) if name in given else _default(type(self), name))
        for name, value in given.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Called when the fields are set."""


def _default(kind: type, name: str) -> Any:
    """The value of a field that a call does not give."""
    declared = getattr(kind, "__dataclass_fields__", {}).get(name, getattr(kind, name, None))
    if not isinstance(declared, Field):
        return declared
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return None if declared.default is MISSING else declared.default
