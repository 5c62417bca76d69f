"""`python -m fullyconv` is the command `fullyconv`."""

from fullyconv.cli import main

if __name__ == "__main__":
    main()
