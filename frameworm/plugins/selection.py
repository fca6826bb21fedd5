"""Which plugins a run loads: the command's word wins over the environment's, that over the config's and the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from frameworm.config import PluginsConfig
from frameworm.plugins.names import key_of

VARIABLE = "FRAMEWORM_PLUGINS"


class Selection(msgspec.Struct, frozen=True):
    """Plugins by their keys: the `required` ones must load, `others` that are found may, unless they are disabled.

    They are by the config (`disabled`) or by an earlier command (`remembered`). `options` are those of `register`.
    """

    required: tuple[str, ...] = ()
    others: bool = True
    disabled: frozenset[str] = frozenset()
    remembered: frozenset[str] = frozenset()
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def wants(self, key: str) -> bool:
        """Whether a plugin that is found is to be loaded."""
        return key in self.required or (self.others and not self.refuses(key))

    def refuses(self, key: str) -> bool:
        """Whether a plugin is disabled, and not required all the same."""
        return key not in self.required and (key in self.disabled or key in self.remembered)


def select(
    config: PluginsConfig | None = None,
    *,
    named: Iterable[str] = (),
    none: bool = False,
    remembered: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Selection:
    """What `--plugin` (`named`), `--no-plugins` (`none`), FRAMEWORM_PLUGINS, a config and the memory say together.

    `named` adds to what the others say. `none` and the variable are lists that are complete: nothing else is loaded.
    `remembered` are those that `frameworm plugins unload` has disabled.
    """
    config = config or PluginsConfig()
    by_command = tuple(map(key_of, named))
    options = {key_of(name): given for name, given in config.options.items()}
    listed = environ.get(VARIABLE)
    if none or listed is not None:
        chosen = () if none or listed is None else tuple(key_of(name) for name in listed.split(",") if name.strip())
        return Selection(required=_once(by_command + chosen), others=False, options=options)
    disabled = frozenset(map(key_of, config.disable))
    configured = tuple(key for key in options if key not in disabled)
    return Selection(
        required=_once(by_command + configured),
        disabled=disabled,
        remembered=frozenset(remembered),
        options=options,
    )


def _once(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))
