"""Trained models in the formats of others, each proven to compute what the model computes."""
