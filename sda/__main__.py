"""`python -m sda`: the command where no script `sda` is installed."""

from sda_cli import main

if __name__ == "__main__":
    main()
