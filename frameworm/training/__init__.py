"""What turns a model and data into a trained model: the loop and the parts it stands on. Imports torch."""
