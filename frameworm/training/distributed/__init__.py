"""Several processes that train one model: who they are, how they agree, what they share, how the model is spread."""
