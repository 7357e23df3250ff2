"""Options that several subcommands of `kvlib` share."""

from typing import Annotated

import typer
from typer.core import TyperCommand

READER_BUDGET = 1000  # tokens: so few that the embedded reader evicts after 17 chunks
MODEL_BUDGET = 130_000  # tokens: safe for 3B on a 24 GB card

ModelPath = Annotated[
    str, typer.Option(metavar="PATH", help="Folder of a Qwen-VL model; by default QWEN_MODEL_PATH or the embedded reader.")
]
Budget = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", min=1, help=f"Most tokens stored; {READER_BUDGET} for the reader, else {MODEL_BUDGET}."),
]
ChunkFrames = Annotated[int, typer.Option(metavar="FRAMES", min=1, help="Frames of a chunk, sampled at 2 a second.")]
DropStatic = Annotated[
    float,
    typer.Option(
        metavar="SHARE", min=0, max=0.99, help="Drop the tokens of what stands still within a chunk, such as 0.03; 0 = none."
    ),
]


class RepeatedPairs(TyperCommand):
    """Takes `-p NAME VALUE` several times, as papermill does. Typer can repeat an option only if it has one value, so each
    pair is joined to `NAME=VALUE` before Typer reads the arguments."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, joined_pairs(args))


def joined_pairs(args: list[str]) -> list[str]:
    """`args` with the two that follow every `-p` joined by "="; raises BadParameter where there are not two."""
    joined, rest = [], list(args)
    while rest:
        argument = rest.pop(0)
        joined.append(argument)
        if argument == "--":
            return joined + rest
        if argument == "-p":
            if len(rest) < 2 or not rest[0].isidentifier():
                raise typer.BadParameter("-p needs a name and a value, such as -p MAX_CACHE_TOKENS 800")
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined
