"""YAML into dataclasses, strictly: unknown keys, duplicate keys and values of the wrong type raise UserError.

Reads the floats and booleans of YAML 1.2. PyYAML follows YAML 1.1: there `1e-4` is a string, `on` and `off`
are booleans. This module does not import Paddle.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import yaml

from .errors import UserError, did_you_mean, nearest, quote

_BOOL, _FLOAT, _INT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int"))
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def parse(text: str, where: str) -> Any:
    """The value of a YAML text: only plain data. `where` names the text in the UserError for invalid YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: constructs no other objects
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{where} is not valid YAML{line}: {problem}") from None


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """A mapping in YAML's short form, such as `{reduction: 4}`. `where` names the text in the UserError."""
    tree = parse(text, where)
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        hint = _space_hint(tree)
        raise UserError(f"{where} must be a mapping such as '{{reduction: 4}}', found {quote(text)}{hint}")
    return tree


def dump(tree: Any) -> str:
    """The YAML text of plain data, tuples as lists. `parse` reads it back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def apply_override(tree: dict, override: str, known: Sequence[str]) -> None:
    """Set `section.key=value` in the tree of a config; the value is YAML. `known`: the `key_names`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"an override is written section.key=value, found {quote(override)}")
    if not any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for name in known):
        raise _unknown_key(key, known, override[len(key) :])
    *sections, last = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise UserError(f"cannot override {quote(key)}: {quote(section)} is not a section")
    tree[last] = parse(text, f"the override {quote(override)}")


def key_names(cls: type, prefix: str = "") -> list[str]:
    """The full name of every field of a dataclass and of those inside it, such as 'optim.lr'."""
    names = []
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            names += key_names(hint, f"{prefix}{name}.")
        elif typing.get_origin(hint) is not typing.ClassVar:
            names.append(f"{prefix}{name}")
    return names


def _unknown_key(key: str, known: Sequence[str], value: str = "") -> UserError:
    """The error for a key that is not known: it shows the keys of its section and the nearest of all keys.

    `value`: what follows the key in an override; the proposal repeats it.
    """
    prefix = key[: key.rfind(".") + 1]
    while prefix and not any(name.startswith(prefix) for name in known):
        prefix = key[: prefix.rstrip(".").rfind(".") + 1]
    siblings = sorted(
        {prefix + name.removeprefix(prefix).partition(".")[0] for name in known if name.startswith(prefix)}
    )
    near = _nearest_key(key, siblings, known)
    hint = did_you_mean(near and near + (value if len(value) <= 40 else ""))
    return UserError(f"unknown config key {quote(key)}: expected one of {', '.join(siblings)}{hint}")


def _nearest_key(key: str, siblings: Sequence[str], known: Sequence[str]) -> str | None:
    """The same name in another section, its abbreviation, or the most similar name."""

    def last(name: str) -> str:
        return name.rpartition(".")[2]

    initials = "".join(word[:1] for word in re.split("[_-]", last(key)))  # learning_rate: lr
    for wanted in (last(key), initials):
        for name in known:
            if last(name) == wanted:
                return name
    for names, cutoff in ((siblings, 0.5), (known, 0.6)):
        near = nearest(last(key), map(last, names), cutoff)
        if near:
            return next(name for name in names if last(name) == near)
    return None


def build(cls: type, tree: Any) -> Any:
    """A dataclass from a mapping. Every key must be a field, and every value of its field's type."""
    return _build(cls, tree, "", key_names(cls))


def _build(cls: type, tree: Any, prefix: str, known: Sequence[str]) -> Any:
    if not isinstance(tree, dict):
        hint = _space_hint(tree)
        raise UserError(f"{prefix.rstrip('.')} must be a section of keys, found {quote(tree)}{hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise _unknown_key(f"{prefix}{key}", known)
        values[key] = _coerce(hints[key], value, f"{prefix}{key}", known)
    return cls(**values)


def _space_hint(text: Any) -> str:
    """The end of a message about `key:value`, which YAML reads as one string; '' for anything else."""
    match = re.fullmatch(r"(\w+):(\S+)", text) if isinstance(text, str) else None
    return f"; write a space after the colon, as in '{match[1]}: {match[2]}'" if match else ""


def _coerce(hint: Any, value: Any, key: str, known: Sequence[str] = ()) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, {} if value is None else value, f"{key}.", known)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint, *others = (option for option in typing.get_args(hint) if option is not types.NoneType)
        hint = next((option for option in others if type(value) is option), hint)
    if typing.get_origin(hint) is tuple:
        return _coerce_tuple(typing.get_args(hint), value, key)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise UserError(
                f"{key} must be a mapping of names to values, found {quote(value)}{_space_hint(value)}"
            )
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{key} must be {_WORDS[hint]}, found {quote(value)}")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{key} must be a finite number, found {value}")
    return value


def _coerce_tuple(members: tuple, value: Any, key: str) -> tuple:
    is_list = isinstance(value, (list, tuple))
    if members[-1] is Ellipsis:
        if not is_list:
            raise UserError(f"{key} must be a list, found {quote(value)}")
        members = members[:1] * len(value)
    if not is_list or len(value) != len(members):
        raise UserError(f"{key} must be a list of {len(members)} numbers, found {quote(value)}")
    return tuple(_coerce(member, item, key) for member, item in zip(members, value, strict=True))


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, aliases and integers of more than 63 bits."""

    yaml_implicit_resolvers: typing.ClassVar = {  # without PyYAML's booleans
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can expand to billions of values
            problem = "an alias (*name), which no config needs"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node):
        value, problem = super().construct_yaml_int(node), ""
        if abs(value) >= 2**63:
            problem = "a whole number of more than 63 bits"
        elif re.match(
            r"[-+]?0[0-7_]|.*:", node.value
        ):  # 010 is 8 in YAML 1.1 and 10 in 1.2; 1:30 is 90 in 1.1
            problem = f"{node.value}, which YAML 1.1 reads in base 8 or 60: expected a decimal number"
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key, value in node.value:
            if (
                isinstance(value, yaml.ScalarNode)
                and not value.value
                and _space_hint(getattr(key, "value", None))
            ):
                problem = f"{quote(key.value)} has no value{_space_hint(key.value)}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {quote(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as another type. Writes no aliases."""

    def ignore_aliases(self, data):
        return True


_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789."))
