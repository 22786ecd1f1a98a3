"""L2: `hoc` and `python -m app.cli`: load the program, then run it."""

import gc


def main() -> None:
    """Entry of the console script."""
    # Loading makes half a million objects that stay; to look through them for garbage, again and again,
    # would be a fifth of the start.
    gc.disable()
    from app.cli.program import cli

    gc.freeze()
    gc.enable()
    cli()


if __name__ == "__main__":
    main()
