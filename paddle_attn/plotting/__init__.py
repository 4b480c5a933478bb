"""What all figures share. A leaf, without Paddle."""
