"""HTML pages that need no other file: inline styles, pictures as data URIs."""

from __future__ import annotations

import base64
import functools
from typing import Any

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates of `parity/report/templates`; everything put into them is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("parity.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context: Any) -> str:
    """Render a whole page.

    Args:
        template: The name of a file in `parity/report/templates`.
        context: The template's variables.
    """
    return _environment().get_template(template).render(**context)


def data_uri(data: bytes, kind: str) -> str:
    """Return a picture's bytes as a link; `kind` such as `image/png`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
