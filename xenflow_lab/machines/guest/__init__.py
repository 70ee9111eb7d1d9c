"""What is put into an image: the agent and its unit. Runs on the guest's own Python, so it imports nothing of ours."""
