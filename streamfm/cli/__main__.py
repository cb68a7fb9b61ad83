"""`python -m streamfm.cli`, where no script `streamfm` was installed."""

from streamfm.cli import main

if __name__ == "__main__":
    main()
