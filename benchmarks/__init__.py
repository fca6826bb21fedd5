"""What an event, a training step and the start-up cost, as ratios that hold on a noisy machine."""
