"""What many clients saw, and whether one order explains it."""
