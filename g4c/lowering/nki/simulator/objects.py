"""NKIObject: the base of classes that kernels define."""

from __future__ import annotations

import inspect
from typing import Any


class NKIObject:
    """Base class for dataclasses and configuration objects of kernels.

    A class without `__init__` gets one, as the compiler makes it: one parameter per annotated field, in order, and a
    call of `__post_init__` at the end. Fields that a class declares as `name = None` count as annotated, so that
    `@dataclass` sees them.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
        if own and not inspect.get_annotations(cls) and all(value is None for value in own.values()):
            cls.__annotations__ = dict.fromkeys(own, Any)

    def __init__(self, *values: Any, **named: Any) -> None:
        kinds = reversed(type(self).__mro__[:-1])
        fields = list(dict.fromkeys(name for kind in kinds for name in inspect.get_annotations(kind)))
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, {len(values)} values were given")
        given = dict(zip(fields, values, strict=False)) | named
        for name in fields:
            setattr(self, name, given.pop(name, getattr(type(self), name, None)))
        for name, value in given.items():
            setattr(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Called when the fields are set."""
