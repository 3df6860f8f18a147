"""What a terminal of a given width shows."""

import io

from rich.console import Console, RenderableType


def text_of(shown: RenderableType, *, width: int = 100, has_colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=has_colour,
        no_color=not has_colour,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(shown, crop=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
