"""What ships to listen to a run: each module is a subscriber, and knows the trainer as an event's source only."""
