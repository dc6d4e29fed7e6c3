"""`python -m prune`, for launchers that start modules: `accelerate launch --num_processes 2 -m prune heal ...`."""

from prune.cli import main

if __name__ == "__main__":
    main()
