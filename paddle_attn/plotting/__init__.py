"""What all figures and progress bars share. A leaf, without Paddle."""
