"""The parameters of a campaign, one by one: meaning, type, unit, limits, default, and where the number comes from.

All of it is read from the models (:class:`aqvolt_flows.campaign.Campaign`) and from the comments of the shipped
``aqvolt26.yaml``, which say for every number the section of the paper. ``aqvolt campaign show`` prints this list, and
the reference in the docs is made from it.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import OURS

#: The campaign whose comments say where numbers come from.
COMMENTED = "aqvolt26"
#: Ends of names, longest first, and the unit that they say.
UNITS = {
    "_per_gpa": "1/GPa",
    "_ev_per_a": "eV/Å",
    "_per_ps": "1/ps",
    "_gpa": "GPa",
    "_ev": "eV",
    "_fs": "fs",
    "_ps": "ps",
    "_a": "Å",
    "_k": "K",
    "_s": "s",
}
_UNIT_SAID = re.compile(r"(?:^|, )(eV/atom|electrons/Å³|1/Å|Å|degrees|amu)(?=[;,. ]|$)")
_WORDS = {float: "number", int: "integer", str: "text", bool: "true or false", type(None): "none", dict: "mapping"}


@dataclass(frozen=True)
class Parameter:
    """One key of a campaign file.

    Attributes
    ----------
    key
        Dotted path; ``[]`` stands for the items of a list.
    type
        In words.
    limits
        What a value must obey, e.g. ``> 0``; empty: nothing more.
    unit
        Empty for counts, words and ratios.
    default
        Of the model; ``None`` with ``required`` for a key that must be given.
    description
        From the model.
    source
        What the comments of the shipped paper's campaign say of it or of its group; empty where they say nothing.
    group
        Whether it holds further keys.
    required
        Whether a campaign must name it.
    """

    key: str
    type: str
    limits: str
    unit: str
    default: Any
    description: str
    source: str
    group: bool = False
    required: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the parameter as JSON types."""
        return dict(vars(self))


@cache
def parameters() -> tuple[Parameter, ...]:
    """Return every parameter of a campaign, groups before what they hold, in the order of the models."""
    sources = comments(resources.files("aqvolt_flows").joinpath(f"campaigns/{COMMENTED}.yaml").read_text("utf-8"))
    return tuple(_walk(Campaign, "", None, sources))


def parameters_below(key: str = "") -> list[Parameter]:
    """Return a parameter and, if it is a group, what it holds; all of them for an empty key.

    Parameters
    ----------
    key
        Dotted path, or the last part of one if no other parameter ends so.

    Raises
    ------
    InputError
        If there is no such parameter, or several end so; the message names them or the closest.
    """
    if not key:
        return list(parameters())
    keys = [p.key for p in parameters()]
    chosen = key if key in keys else _by_end(key, keys)
    return [p for p in parameters() if p.key == chosen or p.key.startswith((f"{chosen}.", f"{chosen}[]"))]


def value_at(campaign: Campaign, key: str) -> Any:
    """Return the value of a parameter in a campaign; of keys below a list, the list of values."""
    value: Any = campaign
    for part in key.split("."):
        value = _attribute(value, part.removesuffix("[]"))
    return _plain(value)


def _attribute(value: Any, name: str) -> Any:
    # by attribute: what a model leaves out of its documents has a value, too
    return [_attribute(v, name) for v in value] if isinstance(value, list) else getattr(value, name, None)


def comments(text: str) -> dict[str, str]:
    r"""Return dotted key → the comment beside it in a YAML text; keys without one are absent.

    Examples
    --------
    >>> comments("a:\n  b: 1   # 2.1: one\n  c: 2\n")
    {'a.b': '2.1: one'}
    """
    lines = text.splitlines()
    found: dict[str, str] = {}
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        _collect(root, "", lines, found)
    return found


def _collect(node: yaml.MappingNode, prefix: str, lines: list[str], found: dict[str, str]) -> None:
    for name, value in node.value:
        key = f"{prefix}{name.value}"
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        # a block's own comment is on the line of its name, a value's behind its end
        mark = name.end_mark if block else value.end_mark
        rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
        said = re.match(r":?\s+#\s*(.*\S)", rest)
        if said:
            found[key] = said[1]
        if isinstance(value, yaml.MappingNode):
            _collect(value, f"{key}.", lines, found)


def _by_end(key: str, keys: list[str]) -> str:
    ending = [k for k in keys if k.endswith(f".{key}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise InputError(f"Several parameters are called {key!r}: {', '.join(ending)}; give the whole key.")
    last = key.rsplit(".", 1)[-1]
    ends = {k: k.rsplit(".", 1)[-1] for k in keys}
    like = difflib.get_close_matches(last, sorted(set(ends.values())), n=2, cutoff=0.6)
    close = [k for k in keys if ends[k] in (like if last not in ends.values() else [last])]
    hint = f"did you mean {' or '.join(close)}?" if close else "'aqvolt campaign show' lists all."
    raise InputError(f"There is no parameter {key!r}; {hint}")


def _walk(
    model: type[BaseModel], prefix: str, defaults: BaseModel | None, sources: dict[str, str]
) -> Iterator[Parameter]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner, many = _group_in(field.annotation)
        default = _default(field) if defaults is None else getattr(defaults, name)
        description = field.description or (inner.__doc__ or "").strip().split("\n")[0] if inner else field.description
        required = defaults is None and field.is_required()
        yield Parameter(
            key=key,
            type=("list of groups" if many else "group") if inner else _type(field.annotation),
            limits=_limits(field),
            unit="" if inner else _unit(name, description or ""),
            default=None if inner and not many else _plain(default),
            description=description or "",
            source=_source(key, description or "", sources),
            group=inner is not None,
            required=required,
        )
        if inner:
            own = default if isinstance(default, BaseModel) else None
            yield from _walk(inner, f"{key}[]." if many else f"{key}.", own, sources)


def _source(key: str, description: str, sources: dict[str, str]) -> str:
    """Return what the comments say of a key, or of the closest group that it is in."""
    if key in sources:
        return sources[key]
    if OURS in description:
        return "silent"
    groups = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    return next((sources[g] for g in groups if g in sources), "")


def _group_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the group that a field holds, if any, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    many = get_origin(annotation) is list
    for part in get_args(annotation):
        inner, deeper = _group_in(part)
        if inner:
            return inner, many or deeper
    return None, False


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else value


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0])
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a) for a in args)
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is dict:
        return f"mapping of {_type(args[0])} to {_type(args[1])}"
    if origin is tuple:
        return f"{len(args)} × {_type(args[0])}"
    return "anything" if annotation is Any else _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(field: FieldInfo) -> str:
    found: list[str] = []
    for about in [*field.metadata, *_metadata(field.annotation)]:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            limit = getattr(about, name, None)
            if limit is not None:
                found.append(f"{sign} {limit:g}")
        if isinstance(about, FieldInfo):
            found += [_limits(about)] if about.metadata else []
        if getattr(about, "min_length", None):
            found.append(f"at least {about.min_length}")
        if getattr(about, "pattern", None):
            found.append(f"like {about.pattern}")
    return ", ".join(dict.fromkeys(f for f in found if f))


def _metadata(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for part in get_args(annotation):
        if get_origin(part) is Annotated or get_args(part):
            yield from _metadata(part)


def _unit(name: str, description: str) -> str:
    said = _UNIT_SAID.search(description)
    if said:
        return said[1]
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
