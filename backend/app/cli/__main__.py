"""L2: `python -m app.cli`, the same as `hoc`."""

from app.cli.program import main

if __name__ == "__main__":
    main()
