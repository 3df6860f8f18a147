"""The templates: HTML with every value escaped, and one style sheet for all pages."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Path(__file__).with_name("templates")


def rendered(template: str, *, script: str = "", **values: Any) -> str:
    """The page. The browser executes nothing but `script`, a file of the templates that is named by its hash."""
    code = (_TEMPLATES / script).read_text() if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((_TEMPLATES / "style.css").read_text()),  # noqa: S704 - a file of this package
            script=Markup(code),  # noqa: S704 - the same
            script_policy=Markup(f"script-src 'sha256-{digest}'; " if code else ""),  # noqa: S704 - base64
            **values,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
