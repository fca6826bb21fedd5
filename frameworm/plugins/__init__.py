"""What plugins are written with: hooks by name, and callbacks that bundle several."""
