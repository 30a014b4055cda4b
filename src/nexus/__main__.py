"""`python -m nexus` is the command `nexus`."""

from nexus.cli import main

if __name__ == "__main__":  # handlers in processes of their own import this module too
    main()
