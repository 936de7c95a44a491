"""Training: from processed clips to an avatar, and the losses, schedules and strategies that it takes (METHOD 5)."""
