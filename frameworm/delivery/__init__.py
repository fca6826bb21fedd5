"""How a run's events leave the process that trains: through its journal."""
