"""Pages a person opens in a browser: one file each, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

from rdt2.errors import ConfigError


def render(template: str, **values: Any) -> str:
    """A page as HTML; every text is escaped.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)


def data_url(jpeg: bytes) -> str:
    """A JPEG as an address that needs no file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode() if jpeg else ""


@lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ConfigError("pages need jinja2. Install the extra: pip install 'rdt2[data]'.") from None
    environment = Environment(
        loader=PackageLoader("rdt2.data", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = data_url
    return environment
