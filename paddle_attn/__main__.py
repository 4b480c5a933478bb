"""`python -m paddle_attn COMMAND …`, the same as `paddle-attn COMMAND …`."""

from .commands import main

if __name__ == "__main__":
    main()
