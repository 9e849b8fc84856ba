"""Training: the loop, its schedules, its data, and what is pretrained with them."""
