"""`python -m frameworm`, which is `frameworm`."""

from frameworm.cli import main

if __name__ == "__main__":
    main()
