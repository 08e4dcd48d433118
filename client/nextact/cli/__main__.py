"""`python -m nextact.cli`."""

from nextact.cli import main

if __name__ == "__main__":
    main()
